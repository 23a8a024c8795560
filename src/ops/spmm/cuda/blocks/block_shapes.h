// Weights as blocks: for what problems, and which shapes of blocks are worth storing.
#pragma once

#include <vector>

#include "ops/block_sparse/cuda/block_config.h"
#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

/// f16 or bf16 throughout, token-major, from 16 tokens on.
Support supports_blocks(const Problem& problem, const cuda::DeviceFacts& device);

struct BlockShape {
  int rows = 0, cols = 0;
  double stored = 0;  ///< Share of the weight in blocks that hold a nonzero.
};

/// Shapes that divide the weight and leave out a good part of it, largest first; smaller ones where
/// they leave out more.
std::vector<BlockShape> shapes_worth_storing(const Problem& problem, const PatternStats& pattern);

BlockProblem block_problem(const Problem& problem, int block_rows, int block_cols, double stored);

}  // namespace rarefy::gpu
