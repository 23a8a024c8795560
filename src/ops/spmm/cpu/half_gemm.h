// f16 weights for many tokens on AMX: what the driver and the ISA file share.
//
// An f16 value is the sum of two bf16: the upper 8 bits of its significand of 11, and the rest.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy::strip {

/// Tiles of one strip, one after the other from `from`, to be split: the upper parts of tile t to
/// `upper` + t·1 KiB, in VNNI order, what they leave to `lower` + t·1 KiB.
struct HalfTiles {
  const std::byte* from;
  std::int64_t tiles;
  std::byte *upper, *lower;
};
/// Returns where the next tile begins.
using SplitHalves = const std::byte*(const HalfTiles& job);

SplitHalves split_dense_amx;   ///< Dense tiles of f16: column after column.
SplitHalves split_bitmap_amx;  ///< Bitmap tiles: masks and values in VNNI order.

}  // namespace rarefy::strip
