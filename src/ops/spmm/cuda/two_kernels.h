// One weight in two forms: a kernel for few tokens, and one for many.
#pragma once

#include <memory>

#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

/// Tokens of one launch of a kernel that reads its weight for every few of them: scratch memory is
/// made for so many, once.
constexpr std::int64_t kTokensAtOnce = 256;

/// @param few multiplies fewer than `from` tokens, at most kTokensAtOnce at once
/// @param many multiplies `from` tokens and more, any number at once
std::unique_ptr<Operator> two_kernels(const Problem& problem, std::unique_ptr<Operator> few,
                                      std::unique_ptr<Operator> many, std::int64_t from);

}  // namespace rarefy::gpu
