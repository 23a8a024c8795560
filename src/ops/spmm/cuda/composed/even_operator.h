// The operator of composed kernels whose nonzeros are shared evenly (even.cu).
#pragma once

#include <memory>

#include "ops/spmm/cuda/composed/config.h"

namespace rarefy::gpu {

/// Throws `Error` (kUnsupported) where sums and rows of a block do not fit in its shared memory.
std::unique_ptr<Operator> make_even_operator(const ComposedConfig& config, const Problem& problem,
                                             const Weight& weight, const cuda::Stream& stream);

}  // namespace rarefy::gpu
