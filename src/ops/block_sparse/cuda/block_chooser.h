// Which kernel multiplies by a block pattern: the fastest of those with the best estimates.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "ops/block_sparse/cuda/block_config.h"

namespace rarefy::gpu {

struct BlockChoice {
  BlockConfig config;
  double time_us = 0;  ///< As measured, or estimated.
  bool measured = false;
};

/// The configs of `block_configs` worth timing: the best estimates, and the best of each way.
std::vector<BlockConfig> block_candidates(const BlockProblem& problem,
                                          const cuda::DeviceFacts& device);

/// Tokens that share a kernel: the next power of two, from 16 on.
std::int64_t token_bucket(std::int64_t tokens);

/// Chooses once for a kind of problem: product, shape, blocks, dtype, epilogue, density by
/// 32nds, bucket of tokens. A network's layers cost a handful of searches, and a pattern that
/// changes while it trains none.
class BlockChooser {
 public:
  /// Microseconds of a kernel on the concrete pattern; throws `Error` where it does not run.
  using Timer = std::function<double(const BlockConfig&)>;

  /// @param timer empty: the best estimate, until somebody measures.
  /// Throws `Error`: kUnsupported as `block_configs`, and what the last candidate threw when none
  /// runs.
  BlockChoice choose(const BlockProblem& problem, const cuda::DeviceFacts& device,
                     const Timer& timer);

 private:
  std::map<std::string, BlockChoice> known_;  ///< By kind.
};

}  // namespace rarefy::gpu
