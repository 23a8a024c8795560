#include "ops/simd/vec_portable.h"
// The kernels below are written over this Vec.
#include "ops/activation/cpu/kernels.h"
#include "ops/activation/cpu/row.h"

namespace rarefy::activation {

const Kernels kPortable{swiglu_row, softmax_row, log_sum_exp_row};

}  // namespace rarefy::activation
