#include "ops/sddmm/cpu/sddmm_rows.h"
#include "ops/spmm/cpu/vector16_avx2.h"

namespace rarefy::sddmm_cpu {

void run_avx2(const Job& job, int vectors) {
  run<Vector256x2>(job, vectors);
}

}  // namespace rarefy::sddmm_cpu
