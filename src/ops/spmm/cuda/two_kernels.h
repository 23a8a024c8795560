// One weight in two forms: a kernel for few tokens, and one for many.
#pragma once

#include <memory>

#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

/// @param many multiplies `from` tokens and more; reads its weight once for any number of them
std::unique_ptr<Operator> two_kernels(std::unique_ptr<Operator> few, std::unique_ptr<Operator> many,
                                      std::int64_t from);

}  // namespace rarefy::gpu
