// Compressed sparse blocks in AVX-512.
#include "ops/spmm/cpu/csb_visits.h"
#include "ops/spmm/cpu/vector16_avx512.h"

namespace rarefy::csb {

void run_avx512(const Job& job, int vectors, DType dtype) {
  run<Vector512>(job, vectors, dtype);
}

}  // namespace rarefy::csb
