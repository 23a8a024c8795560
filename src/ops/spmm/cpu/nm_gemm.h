// N:M weights for many tokens on AMX: what the driver and the ISA file share.
#pragma once

#include "ops/spmm/cpu/strip_engine.h"

namespace rarefy::strip {

/// The bf16 rows of an N:M weight whose M is a power of two: tiles of 32 columns hold whole groups.
struct NmRows {
  const std::byte* values;
  const std::byte* indices;
  std::int64_t row_bytes, row_index_bytes;
  std::int64_t rows;
  int n, m, index_width;
};

/// Tiles [first, first + tiles) of `strips` (1 or 2) strips of 16 rows from row `row` on, to be
/// decoded: tile first + t of strip s to `to` + s·strip_stride + t·1 KiB.
struct NmPanel {
  std::int64_t row, first, tiles;
  std::byte* to;
  std::int64_t strip_stride;
  std::int32_t strips;
};

/// Multiplies `unit`, whose weights were decoded before, while it decodes `panel` and reads the
/// rows of the panel `ahead`, if any, to L2.
void run_nm_amx(const Unit& unit, const Activations& x, const NmRows& rows, const NmPanel& panel,
                const NmPanel* ahead);
/// Decodes a panel with nothing beside it.
void decode_nm_amx(const NmRows& rows, const NmPanel& panel);

}  // namespace rarefy::strip
