// The constants that epilogue.cuh is compiled with.
#pragma once

#include <string>
#include <vector>

#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

/// TOKEN_MAJOR, ACTIVATION, HAS_BIAS and HAS_RESIDUAL of a problem.
std::vector<std::string> epilogue_defines(const Problem& problem);

/// "" for a bare product in token-major layout, else what is different: ".features.relu.bias".
std::string epilogue_name(const Problem& problem);

}  // namespace rarefy::gpu
