// What the families for few tokens on tensor cores (decode, gather, scatter) take alike.
#pragma once

#include <cstdint>

#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

/// f16 or bf16 weights of 1 to 2^30 rows and 1 to `most_columns` columns, activations of the same
/// dtype, token after token.
Support supports_halves(const Problem& problem, std::int64_t most_columns = std::int64_t{1} << 30);

/// The same, and at most 128 tokens.
Support supports_few_tokens(const Problem& problem,
                            std::int64_t most_columns = std::int64_t{1} << 30);

}  // namespace rarefy::gpu
