// The operator of composed kernels whose groups of threads have rows (composed.cu).
#pragma once

#include <memory>

#include "ops/spmm/cuda/composed/config.h"

namespace rarefy::gpu {

/// Throws `Error` (kUnsupported) where the packer does.
std::unique_ptr<Operator> make_row_operator(const ComposedConfig& config, const Problem& problem,
                                            const Weight& weight, const cuda::Stream& stream);

}  // namespace rarefy::gpu
