// CSR rows and row-major blocks in AVX-512.
#include "ops/spmm/cpu/csr_rows.h"
#include "ops/spmm/cpu/vector16_avx512.h"

namespace rarefy::csr {

void run_avx512(const Job& job, int vectors, int index_bits, DType dtype) {
  run<Vector512>(job, vectors, index_bits, dtype);
}
void run_blocks_avx512(const BlockJob& job, int vectors, DType dtype) {
  run_blocks<Vector512>(job, vectors, dtype);
}

}  // namespace rarefy::csr
