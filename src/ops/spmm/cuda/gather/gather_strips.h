// Which runs of which rows make the strips of a block: long rows are cut, so that strips are even.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rarefy::gpu {

/// Consecutive steps of a row: what it has in one strip.
struct GatherRun {
  std::int32_t row = -1;  ///< -1: none.
  std::int32_t first = 0, steps = 0;
};

/// What strips may be like.
struct StripLimits {
  int chunk_steps = 8;  ///< Strips take a multiple of these steps.
  int spare_steps = 0;  ///< Of a strip, that its longest run leaves free: fewer than a chunk has.
  int most_strips = 1;  ///< At least what uncut rows take: one for 16 rows.
};

/// Puts rows of `lengths` steps into strips of 16 runs each; a strip takes as many steps as its
/// longest run and `spare_steps`, filled up to whole chunks. Returns [strip][run], at least a run
/// of every row, the runs of a row in order.
///
/// Rows in order of their lengths make strips whose rows differ little, unless the longest are much
/// longer than the others. Those are cut first: the deepest strip of whole chunks that 16 runs fill
/// is made of what the longest rows begin with, several runs of the same row if need be, and then
/// the next one, until what is left makes good strips as it is. How many are made so is what takes
/// the fewest steps; none, if that gains next to nothing.
std::vector<GatherRun> make_strips(std::span<const std::int32_t> lengths,
                                   const StripLimits& limits);

}  // namespace rarefy::gpu
