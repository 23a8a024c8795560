// Which parts of Pᵀ·Q a block of the grid multiplies on Hopper, stored or not, and where what is
// stored goes: made once for a pattern, walked by samples_wgmma.cu on every call.
#pragma once

#include <cstdint>
#include <vector>

#include "rarefy/block_sparse.h"

namespace rarefy::gpu {

inline constexpr int kSampleHeight = 64;  ///< Columns of a strip of P.

struct GridShape {
  int strip = 64;         ///< Columns of a strip of Q: a piece's, or a multiple of them up to 64.
  int row_strips = 1;     ///< Neighbouring strips of P of a task, at most: 1 or 2.
  int column_strips = 8;  ///< Strips of Q, at most; `together`, or more.
  int together = 4;       ///< Strips of Q of one warpgroup.
};

/// As in device code.
struct GridTask {
  std::uint32_t row, strip, place;
  std::uint8_t rows, columns, second, unused;
};

struct SampleGrids {
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  std::vector<GridTask> tasks;
  std::vector<std::uint32_t> strips;  ///< First column in Q.
  /// Of a task's pieces, by rows and along them: row · 2 + (column / 64) among the values, rows of
  /// all blocks counted on, or kNone.
  std::vector<std::uint32_t> places;
};

/// Every stored piece in one task, in a strip of Q that its warpgroup multiplies: the first
/// `together` of the task for the first warpgroup, those from `second` on for the second, whose
/// row of strips is the task's last. Two strips of P share strips of Q that both need.
/// @param workers blocks of the grid, which take tasks in turn: where that makes fewer rounds, the
/// last tasks are halves.
SampleGrids make_grids(const BlockPattern& pattern, const GridShape& shape, int workers);

}  // namespace rarefy::gpu
