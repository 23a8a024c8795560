#include "ops/sddmm/cpu/sddmm_rows.h"
#include "ops/spmm/cpu/vector16_avx512.h"

namespace rarefy::sddmm_cpu {

void run_avx512(const Job& job, int vectors) {
  run<Vector512>(job, vectors);
}

}  // namespace rarefy::sddmm_cpu
