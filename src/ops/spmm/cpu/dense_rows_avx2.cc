// Dense rows with AVX2, FMA and F16C.
#include "ops/simd/vec_avx2.h"
// The loops below are written over this Vec.
#include "ops/spmm/cpu/dense_rows_engine.h"

namespace rarefy {

void dense_rows_bf16_avx2(const DenseRowsJob& job) {
  run_dense_rows<Bf16Weights>(job);
}
void dense_rows_f16_avx2(const DenseRowsJob& job) {
  run_dense_rows<F16Weights>(job);
}
void dense_rows_f32_avx2(const DenseRowsJob& job) {
  run_dense_rows<F32Weights>(job);
}

}  // namespace rarefy
