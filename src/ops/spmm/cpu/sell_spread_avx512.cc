// Sliced ELL spread over tiles in scratch.
//
// A step holds one entry of each of 16 rows: 16 stores into 16 different words, one scatter. A word
// of a strip holds two neighbouring columns of a row; when an entry falls into the word of the one
// before it, both are written. So padding, which repeats a column with a value of 0, changes
// nothing.
//
// Tiles are cleared just before the first lane gets there: clearing brings a line to L1, and the
// other lanes find it there. Cleared all at once beforehand, lines were back in L2 when the scatter
// came (33 cycles a step instead of 15).
#include <immintrin.h>

#include "ops/spmm/cpu/sell_gemm.h"

namespace rarefy::strip {
namespace {

constexpr std::int64_t kPrefetchBytes = 2048;
constexpr std::int64_t kTileBytes = 1024;
constexpr std::int64_t kTileK = 32;

template <int kGapBytes>
inline __m512i load_gaps(const std::byte* p) {
  if constexpr (kGapBytes == 1)
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  else
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline void clear_tile(std::byte* tile) {
#pragma GCC unroll 16
  for (std::int64_t line = 0; line < kTileBytes; line += 64)
    _mm512_store_si512(tile + line, _mm512_setzero_si512());
}

template <int kGapBytes>
void spread(SellCursor& cursor, std::int64_t first_k, std::int64_t tiles, std::byte* to) {
  constexpr std::int64_t kStep = 16 * (kGapBytes + 2);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i one = _mm512_set1_epi32(1);
  const __m512i first = _mm512_set1_epi32(static_cast<int>(first_k));
  const __m512i width = _mm512_set1_epi32(static_cast<int>(tiles * kTileK));
  __m512i column = _mm512_sub_epi32(_mm512_loadu_si512(cursor.column), first);
  __m512i pair = _mm512_set1_epi32(-1);  // Of the entry before, as `word`.
  __m512i word = _mm512_setzero_si512();
  std::int64_t cleared = 0;
  __m512i front = _mm512_setzero_si512();  // The first column that is not cleared.
  const std::byte* step = cursor.step;
  const std::byte* end = cursor.end;
  bool kept = false;
  const auto keep = [&] {
    kept = true;
    cursor.step = step;
    _mm512_storeu_si512(cursor.column, _mm512_add_epi32(column, first));
  };

  for (; step != end; step += kStep) {
    _mm_prefetch(reinterpret_cast<const char*>(step + kPrefetchBytes), _MM_HINT_T0);
    const __m512i next = _mm512_add_epi32(column, load_gaps<kGapBytes>(step));
    if (_mm512_cmpge_epi32_mask(next, front) != 0) {
      const __mmask16 past = _mm512_cmpge_epi32_mask(next, width);
      if (past != 0 && !kept) keep();
      if (past == 0xffff) break;
      while (cleared < tiles && _mm512_cmpge_epi32_mask(next, front) != 0) {
        clear_tile(to + cleared++ * kTileBytes);
        front = _mm512_set1_epi32(static_cast<int>(cleared * kTileK));
      }
    }
    column = next;
    const __m512i value = _mm512_cvtepu16_epi32(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(step + 16 * kGapBytes)));
    const __m512i placed =
        _mm512_mask_slli_epi32(value, _mm512_test_epi32_mask(column, one), value, 16);
    const __m512i before = pair;
    pair = _mm512_srai_epi32(column, 1);
    word = _mm512_mask_or_epi32(placed, _mm512_cmpeq_epi32_mask(pair, before), placed, word);
    const __m512i place = _mm512_add_epi32(_mm512_slli_epi32(pair, 4), lanes);
    // Negative columns belong to the range before: as unsigned numbers they lie past the width.
    const __mmask16 inside = _mm512_cmplt_epu32_mask(column, width);
    _mm512_mask_i32scatter_epi32(to, inside, place, word, 4);
  }
  if (!kept) keep();
  for (; cleared < tiles; ++cleared) clear_tile(to + cleared * kTileBytes);
}

}  // namespace

void spread_sell(SellCursor& cursor, int gap_bytes, std::int64_t first_k, std::int64_t tiles,
                 std::byte* to) {
  gap_bytes == 1 ? spread<1>(cursor, first_k, tiles, to) : spread<2>(cursor, first_k, tiles, to);
}

void unsort_scope(const float* sums, std::int64_t strip_floats, std::int64_t strips,
                  const std::int32_t* source, float* to) {
  __m512 from[4];
  for (std::int64_t s = 0; s < 4; ++s)
    from[s] = s < strips ? _mm512_loadu_ps(sums + s * strip_floats) : _mm512_setzero_ps();
  for (int r = 0; r < 64; r += 16) {
    const __m512i index = _mm512_loadu_si512(source + r);
    const __m512 low = _mm512_permutex2var_ps(from[0], index, from[1]);
    const __m512 high = _mm512_permutex2var_ps(from[2], index, from[3]);
    const __mmask16 upper = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32));
    _mm512_storeu_ps(to + r, _mm512_mask_blend_ps(upper, low, high));
  }
}

}  // namespace rarefy::strip
