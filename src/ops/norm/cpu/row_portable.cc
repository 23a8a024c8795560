#include "ops/simd/vec_portable.h"
// The kernels below are written over this Vec.
#include "ops/norm/cpu/kernels.h"
#include "ops/norm/cpu/row.h"

namespace rarefy::norm {

void row_portable(const float* x, const float* weight, float eps, float* y, std::int64_t width) {
  rms_norm_row(x, weight, eps, y, width);
}

}  // namespace rarefy::norm
