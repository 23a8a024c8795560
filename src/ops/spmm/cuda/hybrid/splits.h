// Where to cut a weight into blocks that are stored densely and a rest that is not (after CROSS,
// HPCA 2025).
#pragma once

#include <functional>
#include <vector>

#include "rarefy/matrix.h"

namespace rarefy::gpu {

/// Blocks with at least `fewest` nonzeros on one side, all others on the other.
struct Split {
  int block_rows = 0, block_cols = 0;
  int fewest = 0;
  double stored = 0;  ///< Share of the weight in blocks of the first side.
  PatternStats rest;  ///< Of the other: blocks as they are, rows by their share.
};

/// The density from which a block of this side is cheaper stored than by its nonzeros.
using Crossing = std::function<double(int side)>;

/// Splits of a weight that leave both sides something: square blocks of 128, 64 and 32, limits from
/// 1/256 to 1/16 of a block, and where `crossing`, if any, says.
std::vector<Split> splits_of(const PatternStats& pattern, const Crossing& crossing = {});

}  // namespace rarefy::gpu
