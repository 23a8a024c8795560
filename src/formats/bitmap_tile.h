// One bitmap tile: how its masks and values are written and read. bitmap.h has the picture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "formats/panels.h"
#include "rarefy/dtype.h"

namespace rarefy::bitmap {

/// The layout for 16-bit values (two columns of 16 rows a group) and for 32-bit ones (one column).
template <class Bits>
struct TileLayout {
  static constexpr int kColsPerGroup = sizeof(Bits) == 2 ? 2 : 1;
  static constexpr int kLanes = 16 * kColsPerGroup;
  static constexpr int kTileCols = 16 * kColsPerGroup;
  using Mask = std::conditional_t<sizeof(Bits) == 2, std::uint32_t, std::uint16_t>;
  static constexpr std::size_t kMaskBytes = 16 * sizeof(Mask);
  static constexpr Bits kMagnitude = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
};

/// Calls body(Bits{}) with the unsigned type as wide as the dtype.
template <class Body>
decltype(auto) dispatch_width(DType dtype, Body&& body) {
  if (size_of(dtype) == 4) return body(std::uint32_t{});
  return body(std::uint16_t{});
}

/// Appends one tile, given as 16 rows of kTileCols values, at `out` and returns where it ends.
/// Every lane writes a value and advances only when it is not zero: no branch to mispredict.
template <class Bits>
std::byte* write_tile(const Bits* tile, std::byte* out) {
  using L = TileLayout<Bits>;
  std::byte* values = out + L::kMaskBytes;
  for (int group = 0; group < 16; ++group) {
    typename L::Mask mask = 0;
    for (int lane = 0; lane < L::kLanes; ++lane) {
      const Bits value = tile[lane / L::kColsPerGroup * L::kTileCols + group * L::kColsPerGroup +
                              lane % L::kColsPerGroup];
      const bool stored = (value & L::kMagnitude) != 0;
      std::memcpy(values, &value, sizeof value);
      values += stored ? sizeof value : 0;
      mask = static_cast<typename L::Mask>(mask | (static_cast<typename L::Mask>(stored) << lane));
    }
    std::memcpy(out + group * sizeof mask, &mask, sizeof mask);
  }
  return values;
}

/// Calls body(row, column, value) for the nonzeros of the tile at `tile`, in the order they are
/// stored, and returns where the next tile starts.
template <class Bits, class Body>
const std::byte* for_each_value(const std::byte* tile, Body&& body) {
  using L = TileLayout<Bits>;
  const std::byte* values = tile + L::kMaskBytes;
  for (int group = 0; group < 16; ++group) {
    typename L::Mask mask;
    std::memcpy(&mask, tile + group * sizeof mask, sizeof mask);
    for_each_bit(mask, [&](int lane) {
      Bits value;
      std::memcpy(&value, values, sizeof value);
      body(lane / L::kColsPerGroup, group * L::kColsPerGroup + lane % L::kColsPerGroup, value);
      values += sizeof(Bits);
    });
  }
  return values;
}

}  // namespace rarefy::bitmap
