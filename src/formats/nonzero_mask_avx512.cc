#include <immintrin.h>

#include "formats/nonzero_mask.h"

namespace rarefy {

std::int64_t nonzero_mask16_avx512(const std::uint16_t* values, std::int64_t count,
                                   std::uint64_t* masks) {
  const __m512i magnitude = _mm512_set1_epi16(0x7FFF);
  std::int64_t total = 0;
  for (std::int64_t base = 0; base < count; base += 64) {
    const std::int64_t left = count - base;
    __m512i low;
    __m512i high;
    if (left >= 64) {
      low = _mm512_loadu_si512(values + base);
      high = _mm512_loadu_si512(values + base + 32);
    } else {
      const std::uint64_t keep = (std::uint64_t{1} << left) - 1;
      low = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(keep), values + base);
      high = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(keep >> 32), values + base + 32);
    }
    const std::uint64_t mask =
        _mm512_test_epi16_mask(low, magnitude) |
        (static_cast<std::uint64_t>(_mm512_test_epi16_mask(high, magnitude)) << 32);
    masks[base / 64] = mask;
    total += __builtin_popcountll(mask);
  }
  return total;
}

std::int64_t nonzero_mask32_avx512(const std::uint32_t* values, std::int64_t count,
                                   std::uint64_t* masks) {
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  std::int64_t total = 0;
  for (std::int64_t base = 0; base < count; base += 64) {
    const std::int64_t left = count - base;
    const std::uint64_t keep = left >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
    std::uint64_t mask = 0;
    for (int part = 0; part < 4; ++part) {
      const auto lanes = static_cast<__mmask16>(keep >> (16 * part));
      const __m512i v = _mm512_maskz_loadu_epi32(lanes, values + base + 16 * part);
      mask |= static_cast<std::uint64_t>(_mm512_test_epi32_mask(v, magnitude)) << (16 * part);
    }
    masks[base / 64] = mask;
    total += __builtin_popcountll(mask);
  }
  return total;
}

}  // namespace rarefy
