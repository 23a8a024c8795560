// CSR rows and row-major blocks in AVX2.
#include "ops/spmm/cpu/csr_rows.h"
#include "ops/spmm/cpu/vector16_avx2.h"

namespace rarefy::csr {

void run_avx2(const Job& job, int vectors, int index_bits, DType dtype) {
  run<Vector256x2>(job, vectors, index_bits, dtype);
}
void run_blocks_avx2(const BlockJob& job, int vectors, DType dtype) {
  run_blocks<Vector256x2>(job, vectors, dtype);
}

}  // namespace rarefy::csr
