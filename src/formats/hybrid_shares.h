// What a hybrid of a weight would hold, from its pattern alone.
#pragma once

#include "rarefy/matrix.h"

namespace rarefy {

/// Where the nonzeros and positions of a weight go.
struct HybridShares {
  double tiles = 0;          ///< Stored tiles of 16×32, always an even number in a pair of strips.
  double tile_nonzeros = 0;  ///< Nonzeros in them.
  double sparse_nonzeros = 0;
  double sparse_visits = 0;  ///< Rows of blocks of 128 columns that hold one of those.
};

/// Counts on the grid of `pattern` where rows and columns keep their order; of sorted rows, or
/// where there is no grid, as if nonzeros lay at random within a row.
HybridShares hybrid_shares(const FormatSpec& spec, const PatternStats& pattern);

/// Whether a block of `positions` with `nnz` nonzeros goes to the sparse part.
constexpr bool is_sparse_block(std::int64_t nnz, std::int64_t positions, int sparse_below) {
  return nnz * 1024 < positions * sparse_below;
}

}  // namespace rarefy
