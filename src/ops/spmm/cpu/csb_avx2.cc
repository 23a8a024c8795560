// Compressed sparse blocks in AVX2.
#include "ops/spmm/cpu/csb_visits.h"
#include "ops/spmm/cpu/vector16_avx2.h"

namespace rarefy::csb {

void run_avx2(const Job& job, int vectors, DType dtype) {
  run<Vector256x2>(job, vectors, dtype);
}

}  // namespace rarefy::csb
