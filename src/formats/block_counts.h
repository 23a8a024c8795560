// Nonzeros of blocks larger than those that a pattern's statistics count.
#pragma once

#include <cstdint>
#include <vector>

#include "rarefy/matrix.h"

namespace rarefy {

/// Nonzeros of each block of so many rows and columns, row by row of a grid whose edge blocks may
/// be smaller. Throws `Error` (kInvalidArgument) where the pattern has no counts of blocks, or its
/// own blocks do not divide these.
std::vector<std::int32_t> block_counts(const PatternStats& pattern, int block_rows, int block_cols);

}  // namespace rarefy
