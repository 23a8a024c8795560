// Which stored pieces of Pᵀ·Q a block of the grid makes together: made once for a pattern, walked
// by samples_mma.cu on every call.
#pragma once

#include <cstdint>
#include <vector>

#include "rarefy/block_sparse.h"

namespace rarefy::gpu {

struct TaskShape {
  int row_strips = 1;     ///< Neighbouring strips of P that a task may have.
  int column_strips = 8;  ///< Strips of Q, at most.
  int pieces = 8;         ///< At most.
};

/// As in device code.
struct SampleTask {
  std::uint32_t piece, pieces, strip;
  std::uint16_t rows, columns;
};
struct SamplePiece {
  std::uint32_t to;
  std::uint16_t row, column;
};

struct SampleTasks {
  std::vector<SampleTask> tasks;
  std::vector<SamplePiece> pieces;
  std::vector<std::uint32_t> strips;  ///< First column in P, or in Q.
};

/// Every stored piece in one task. A task's pieces lie in `row_strips` neighbouring strips, by
/// rows; it takes columns of pieces as long as all limits hold.
SampleTasks make_tasks(const BlockPattern& pattern, const TaskShape& shape);

}  // namespace rarefy::gpu
