#include "ops/simd/vec_portable.h"
// After the Vec that it works with.
#include "ops/block_sparse/cpu/fma_blocks.h"

namespace rarefy::block_cpu {

const FmaKernels& fma_portable() {
  static constexpr FmaKernels kKernels{simd::kLanes, multiply, sample};
  return kKernels;
}

}  // namespace rarefy::block_cpu
