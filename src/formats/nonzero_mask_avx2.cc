#include <immintrin.h>

#include "formats/nonzero_mask.h"

namespace rarefy {
namespace {

/// The last, short group of 64, one value at a time.
template <class Bits>
std::uint64_t tail_mask(const Bits* values, std::int64_t count) {
  constexpr Bits kMagnitude = static_cast<Bits>(~Bits{0}) >> 1;
  std::uint64_t mask = 0;
  for (std::int64_t i = 0; i < count; ++i)
    mask |= static_cast<std::uint64_t>((values[i] & kMagnitude) != 0) << i;
  return mask;
}

}  // namespace

std::int64_t nonzero_mask16_avx2(const std::uint16_t* values, std::int64_t count,
                                 std::uint64_t* masks) {
  const __m256i zero = _mm256_setzero_si256();
  std::int64_t total = 0;
  for (std::int64_t base = 0; base < count; base += 64) {
    std::uint64_t mask = 0;
    if (count - base >= 64) {
      for (int half = 0; half < 2; ++half) {
        const auto* from = reinterpret_cast<const __m256i*>(values + base + 32 * half);
        // Doubling drops the sign, so that -0.0 compares equal to zero.
        const __m256i a = _mm256_loadu_si256(from);
        const __m256i b = _mm256_loadu_si256(from + 1);
        const __m256i a_is_zero = _mm256_cmpeq_epi16(_mm256_add_epi16(a, a), zero);
        const __m256i b_is_zero = _mm256_cmpeq_epi16(_mm256_add_epi16(b, b), zero);
        const __m256i bytes =
            _mm256_permute4x64_epi64(_mm256_packs_epi16(a_is_zero, b_is_zero), 0xD8);
        const auto zeros = static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes));
        mask |= static_cast<std::uint64_t>(~zeros) << (32 * half);
      }
    } else {
      mask = tail_mask(values + base, count - base);
    }
    masks[base / 64] = mask;
    total += __builtin_popcountll(mask);
  }
  return total;
}

std::int64_t nonzero_mask32_avx2(const std::uint32_t* values, std::int64_t count,
                                 std::uint64_t* masks) {
  const __m256i zero = _mm256_setzero_si256();
  std::int64_t total = 0;
  for (std::int64_t base = 0; base < count; base += 64) {
    std::uint64_t mask = 0;
    if (count - base >= 64) {
      for (int part = 0; part < 8; ++part) {
        const __m256i v =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + base + 8 * part));
        const __m256i is_zero = _mm256_cmpeq_epi32(_mm256_add_epi32(v, v), zero);
        const auto zeros =
            static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(is_zero)));
        mask |= static_cast<std::uint64_t>(~zeros & 0xFFU) << (8 * part);
      }
    } else {
      mask = tail_mask(values + base, count - base);
    }
    masks[base / 64] = mask;
    total += __builtin_popcountll(mask);
  }
  return total;
}

}  // namespace rarefy
