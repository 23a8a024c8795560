// Sliced ELL weights for many tokens on AMX: what the driver and the ISA file share.
#pragma once

#include "ops/spmm/cpu/strip_engine.h"

namespace rarefy::strip {

/// Where the walk through a slice stands: before `step`, with the columns its lanes have reached.
///
/// Lanes advance at the pace of their own gaps, so that a range of K begins at another step in
/// each. A cursor is left at the first step that took any lane past the range: what other lanes
/// have before the next range is walked again and masked out.
struct SellCursor {
  const std::byte* step;
  const std::byte* end;
  std::int32_t column[16];
};

/// Spreads columns [first_k, first_k + 32·tiles) of a slice of bf16 over strip-ordered tiles of 1
/// KiB, from `to` on, and moves the cursor behind them.
void spread_sell(SellCursor& cursor, int gap_bytes, std::int64_t first_k, std::int64_t tiles,
                 std::byte* to);

/// to[row] = sums of that row, for the 64 rows of a scope: row r comes from lane source[r] % 16 of
/// strip source[r] / 16; strips lie `strip_floats` apart.
void unsort_scope(const float* sums, std::int64_t strip_floats, std::int64_t strips,
                  const std::int32_t* source, float* to);

}  // namespace rarefy::strip
