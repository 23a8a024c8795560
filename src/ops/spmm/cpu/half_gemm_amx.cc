// f16 weights as two bf16, exactly: as f32 their significand has 11 bits, of which the upper half
// of the word holds 8; the other 3 (and the sign) make a bf16 of their own. bf16 reaches further
// down than f16, so that subnormal f16 stay exact, too.
#include "ops/spmm/cpu/half_gemm.h"

// GCC 12 warns about the undefined operands inside its own intrinsics (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

namespace rarefy::strip {
namespace {

constexpr std::int64_t kTileBytes = 1024;
constexpr std::int64_t kPrefetchBytes = 2048;

struct Parts {
  __m512i upper, lower;  ///< f32 whose lower 16 bits are zero.
};
inline Parts split(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i upper = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
  // Infinity and NaN leave nothing (x - upper would make a NaN of infinity).
  const __m512i infinity = _mm512_set1_epi32(0x7f800000);
  const __mmask16 finite =
      _mm512_cmplt_epu32_mask(_mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)), infinity);
  return {upper, _mm512_castps_si512(_mm512_maskz_sub_ps(finite, x, _mm512_castsi512_ps(upper)))};
}

/// Lane r: the upper halves of even[r] and odd[r].
inline __m512i pair(__m512i even, __m512i odd) {
  return _mm512_or_si512(_mm512_srli_epi32(even, 16), odd);
}

}  // namespace

const std::byte* split_dense_amx(const HalfTiles& job) {
  const auto column = [](const std::byte* p) {
    return split(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
  };
  for (std::int64_t at = 0; at < job.tiles * kTileBytes; at += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(job.from + at + kPrefetchBytes), _MM_HINT_T0);
    const Parts even = column(job.from + at);
    const Parts odd = column(job.from + at + 32);
    _mm512_store_si512(job.upper + at, pair(even.upper, odd.upper));
    _mm512_store_si512(job.lower + at, pair(even.lower, odd.lower));
  }
  return job.from + job.tiles * kTileBytes;
}

const std::byte* split_bitmap_amx(const HalfTiles& job) {
  constexpr std::int64_t kMaskBytes = 64;
  const std::byte* tile = job.from;
  for (std::int64_t t = 0; t < job.tiles; ++t) {
    const std::byte* values = tile + kMaskBytes;
    for (std::int64_t group = 0; group < 16; ++group) {
      std::uint32_t mask;
      __builtin_memcpy(&mask, tile + 4 * group, sizeof mask);
      const __m512i words = _mm512_maskz_expand_epi16(mask, _mm512_loadu_si512(values));
      values += 2 * _mm_popcnt_u32(mask);
      // Words in order: those of the upper 256 bits go to the upper half of a bf16 vector, again.
      const Parts low = split(_mm512_cvtph_ps(_mm512_castsi512_si256(words)));
      const Parts high = split(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(words, 1)));
      const auto join = [](__m512i upper_half, __m512i lower_half) {
        return reinterpret_cast<__m512i>(
            _mm512_cvtne2ps_pbh(_mm512_castsi512_ps(upper_half), _mm512_castsi512_ps(lower_half)));
      };
      const std::int64_t at = t * kTileBytes + 64 * group;
      _mm512_store_si512(job.upper + at, join(high.upper, low.upper));
      _mm512_store_si512(job.lower + at, join(high.lower, low.lower));
    }
    for (const std::byte* line = tile; line < values; line += 64)
      _mm_prefetch(reinterpret_cast<const char*>(line + kPrefetchBytes), _MM_HINT_T0);
    tile = values;
  }
  return tile;
}

}  // namespace rarefy::strip
