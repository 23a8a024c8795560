// Dense rows with the vectors of the baseline.
#include "ops/simd/vec_portable.h"
// The loops below are written over this Vec.
#include "ops/spmm/cpu/dense_rows_engine.h"

namespace rarefy {

void dense_rows_bf16_portable(const DenseRowsJob& job) {
  run_dense_rows<Bf16Weights>(job);
}
void dense_rows_f16_portable(const DenseRowsJob& job) {
  run_dense_rows<F16Weights>(job);
}
void dense_rows_f32_portable(const DenseRowsJob& job) {
  run_dense_rows<F32Weights>(job);
}

}  // namespace rarefy
