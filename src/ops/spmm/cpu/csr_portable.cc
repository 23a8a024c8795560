// CSR rows and row-major blocks in plain C++.
#include "ops/spmm/cpu/csr_rows.h"
#include "ops/spmm/cpu/vector16_portable.h"

namespace rarefy::csr {

void run_portable(const Job& job, int vectors, int index_bits, DType dtype) {
  run<PortableVector>(job, vectors, index_bits, dtype);
}
void run_blocks_portable(const BlockJob& job, int vectors, DType dtype) {
  run_blocks<PortableVector>(job, vectors, dtype);
}

}  // namespace rarefy::csr
