#include "ops/sddmm/cpu/sddmm_rows.h"
#include "ops/spmm/cpu/vector16_portable.h"

namespace rarefy::sddmm_cpu {

void run_portable(const Job& job, int vectors) {
  run<PortableVector>(job, vectors);
}

}  // namespace rarefy::sddmm_cpu
