#include "ops/simd/vec_avx512.h"
// The kernels below are written over this Vec.
#include "ops/attention/cpu/block.h"
#include "ops/attention/cpu/kernels.h"

namespace rarefy::attention_kernels {

void attend_avx512(const Block& block) {
  attend(block);
}

}  // namespace rarefy::attention_kernels
