#include "ops/simd/vec_avx512.h"
// The kernels below are written over this Vec.
#include "ops/activation/cpu/kernels.h"
#include "ops/activation/cpu/row.h"

namespace rarefy::activation {

const Kernels kAvx512{swiglu_row, softmax_row, log_sum_exp_row};

}  // namespace rarefy::activation
