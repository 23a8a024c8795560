// Compressed sparse blocks in plain C++.
#include "ops/spmm/cpu/csb_visits.h"
#include "ops/spmm/cpu/vector16_portable.h"

namespace rarefy::csb {

void run_portable(const Job& job, int vectors, DType dtype) {
  run<PortableVector>(job, vectors, dtype);
}

}  // namespace rarefy::csb
