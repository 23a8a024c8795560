// A bf16 bitmap tile as an AMX operand, for the ISA files that decode one; everything is local to
// the file that includes it.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace rarefy {
namespace {

/// Expands one tile of 16 masks and their values to the 1 KiB at `out`, in VNNI order, and returns
/// where the next one starts.
inline const std::byte* expand_tile(const std::byte* tile, std::byte* out) {
  constexpr std::int64_t kMaskBytes = 64;
  const std::byte* values = tile + kMaskBytes;
#pragma GCC unroll 16
  for (int group = 0; group < 16; ++group) {
    std::uint32_t mask;
    __builtin_memcpy(&mask, tile + 4 * group, sizeof mask);
    _mm512_store_si512(out + 64 * group,
                       _mm512_maskz_expand_epi16(mask, _mm512_loadu_si512(values)));
    values += 2 * _mm_popcnt_u32(mask);
  }
  return values;
}

}  // namespace
}  // namespace rarefy
