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

/// Columns [first_k, first_k + 32·tiles) of 1 or 2 slices to be spread over strip-ordered tiles in
/// scratch, tile t of strip s at `to` + s·strip_stride + t·1 KiB. The cursors advance.
struct SellPanel {
  SellCursor* cursors;
  std::byte* to;
  std::int64_t strip_stride;
  std::int64_t tiles;
  std::int64_t first_k;
  std::int64_t columns_left;  ///< From first_k on: tells how many steps a panel takes, about.
  std::int32_t strips;
  std::int32_t gap_bytes;
};

/// Multiplies `unit`, whose weights were spread before, while it spreads `panel`.
void run_sell_amx(const Unit& unit, const Activations& x, SellPanel& panel);
/// Spreads a panel with nothing beside it.
void spread_sell_amx(SellPanel& panel);

/// to[row] = sums of that row, for the 64 rows of a scope: row r comes from lane source[r] % 16 of
/// strip source[r] / 16; strips lie `strip_floats` apart.
void unsort_scope_amx(const float* sums, std::int64_t strip_floats, std::int64_t strips,
                      const std::int32_t* source, float* to);

}  // namespace rarefy::strip
