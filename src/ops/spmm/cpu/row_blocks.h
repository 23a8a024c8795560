// Work in blocks of rows: how threads share them, and how their sums become results.
#pragma once

#include <cstdint>

#include "ops/spmm/epilogue.h"

namespace rarefy {

/// Where thread `part` of `parts` starts when units are cut by cumulative bytes: offsets has one
/// entry a unit and one more; returns a unit. Monotonous in `part`, 0 and all units at the ends.
std::int64_t cut_by_bytes(const std::uint64_t* offsets, std::int64_t units, int part, int parts);

/// Stores the results of row blocks [first, last), `height` rows each, of a matrix of `rows`; their
/// sums lie as [block][token][row of the block].
void store_row_blocks(const Epilogue& epilogue, const float* sums, std::int64_t tokens,
                      std::int64_t height, std::int64_t rows, std::int64_t first,
                      std::int64_t last);

}  // namespace rarefy
