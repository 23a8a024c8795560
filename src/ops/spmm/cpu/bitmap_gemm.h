// Bitmap weights for more than 16 tokens on AMX: what the driver and the ISA file share.
#pragma once

#include "ops/spmm/cpu/strip_engine.h"

namespace rarefy::strip {

/// Tiles of 1 or 2 strips to be decoded to scratch, tile t of strip s to `to` + s·strip_stride +
/// t·1 KiB. `from` advances with them.
struct BitmapPanel {
  const std::byte* from[2];
  std::byte* to;
  std::int64_t strip_stride;
  std::int64_t tiles;
  std::int32_t strips;
};

/// Multiplies `unit`, whose weights were decoded before, while it decodes `panel`.
void run_bitmap_amx(const Unit& unit, const Activations& x, BitmapPanel& panel);
/// Decodes a panel with nothing beside it.
void decode_bitmap_amx(BitmapPanel& panel);

}  // namespace rarefy::strip
