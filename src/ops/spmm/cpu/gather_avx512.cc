// SpMV over row lists with AVX-512. A gather of 16 lanes takes 8.2 cycles on Sapphire Rapids and
// nothing here takes its load ports, so everything else is arranged to fit beside it: columns are
// rebuilt 32 at a time in 16-bit lanes, and split into even and odd lanes by shift and mask, which
// spares the shuffle port that a widening conversion would take.
#include <immintrin.h>

#include "ops/spmm/cpu/gather_inner.h"

namespace rarefy {
namespace {

/// Rows walked at once, far apart, each with streams of its own: one stream a thread reads DRAM at
/// half the speed of four.
constexpr int kStreams = 4;
constexpr std::int64_t kPrefetchBytes = 1024;

void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p) + kPrefetchBytes, _MM_HINT_T0);
}

__m512 even_bf16(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}
__m512 odd_bf16(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(~0xFFFF)));
}

struct Bf16 {
  using Bits = std::uint16_t;
  static __m512 widen(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static __m512 load(const Bits* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 load(const Bits* p, __mmask16 live) {
    return widen(_mm256_maskz_loadu_epi16(live, p));
  }
  /// The next popcount(live) values in the live lanes of 32, zero in the others; as even and odd
  /// lanes.
  static void expand(const Bits* p, __mmask32 live, __m512& even, __m512& odd) {
    const __m512i pairs = _mm512_maskz_expand_epi16(live, _mm512_loadu_si512(p));
    even = even_bf16(pairs);
    odd = odd_bf16(pairs);
  }
};

struct F16 {
  using Bits = std::uint16_t;
  static __m512 load(const Bits* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 load(const Bits* p, __mmask16 live) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(live, p));
  }
  static void expand(const Bits* p, __mmask32 live, __m512& even, __m512& odd) {
    const __m512i pairs = _mm512_maskz_expand_epi16(live, _mm512_loadu_si512(p));
    even = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
    odd = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16)));
  }
};

struct F32 {
  using Bits = float;
  static __m512 load(const Bits* p) { return _mm512_loadu_ps(p); }
  static __m512 load(const Bits* p, __mmask16 live) { return _mm512_maskz_loadu_ps(live, p); }
  /// Values come in list order, lanes are even and odd: expand both halves, then take turns.
  static void expand(const Bits* p, __mmask32 live, __m512& even, __m512& odd) {
    const auto low_live = static_cast<__mmask16>(live);
    const auto high_live = static_cast<__mmask16>(live >> 16);
    const __m512 low = _mm512_maskz_expand_ps(low_live, _mm512_loadu_ps(p));
    const int taken = __builtin_popcount(low_live);
    const __m512 high = _mm512_maskz_expand_ps(
        high_live,
        _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << __builtin_popcount(high_live)) - 1U),
                              p + taken));
    const __m512i evens =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    even = _mm512_permutex2var_ps(low, evens, high);
    odd = _mm512_permutex2var_ps(low, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), high);
  }
};

__m512 gather(__mmask16 live, __m512i columns, const float* x) {
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), live, columns, x, 4);
}

/// One row of CSR: 16 entries a step.
template <class W, class Index>
class CsrCursor {
 public:
  CsrCursor(const GatherJob& job, std::int64_t row)
      : columns_(static_cast<const Index*>(job.columns) + job.list_offsets[row]),
        values_(static_cast<const typename W::Bits*>(job.values) + job.list_offsets[row]),
        left_(job.list_offsets[row + 1] - job.list_offsets[row]) {}
  [[nodiscard]] std::int64_t steps() const { return left_ / 16; }

  void step(const float* x) {
    prefetch(columns_);
    prefetch(values_);
    __m512i columns;
    if constexpr (sizeof(Index) == 2) {
      columns =
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns_)));
    } else {
      columns = _mm512_loadu_si512(columns_);
    }
    sum_ = _mm512_fmadd_ps(W::load(values_), _mm512_i32gather_ps(columns, x, 4), sum_);
    columns_ += 16;
    values_ += 16;
    left_ -= 16;
  }
  float finish(const float* x) {
    if (left_ > 0) {
      const auto live = static_cast<__mmask16>((1U << left_) - 1U);
      __m512i columns;
      if constexpr (sizeof(Index) == 2) {
        columns = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(live, columns_));
      } else {
        columns = _mm512_maskz_loadu_epi32(live, columns_);
      }
      sum_ = _mm512_fmadd_ps(W::load(values_, live), gather(live, columns, x), sum_);
    }
    return _mm512_reduce_add_ps(sum_);
  }

 private:
  const Index* columns_;
  const typename W::Bits* values_;
  std::int64_t left_;
  __m512 sum_ = _mm512_setzero_ps();
};

/// Running column and sums of a delta row; groups of 32 codes go through `accumulate`.
template <class W>
class DeltaState {
 public:
  explicit DeltaState(const typename W::Bits* values) : values_(values) {}

  /// `places`: for each of 32 codes, how many columns it lies beyond the last of the group before;
  /// `live`: codes that are no escapes.
  void accumulate(__m512i places, __mmask32 live, const float* x) {
    const __m512i columns = _mm512_add_epi16(places, last_);
    last_ = _mm512_permutexvar_epi16(_mm512_set1_epi16(31), columns);
    __m512 even;
    __m512 odd;
    W::expand(values_, live, even, odd);
    values_ += __builtin_popcount(live);
    const auto even_live = static_cast<__mmask16>(_pext_u32(live, 0x55555555U));
    const auto odd_live = static_cast<__mmask16>(_pext_u32(live, 0xAAAAAAAAU));
    const __m512i even_columns = _mm512_and_si512(columns, _mm512_set1_epi32(0xFFFF));
    const __m512i odd_columns = _mm512_srli_epi32(columns, 16);
    even_sum_ = _mm512_fmadd_ps(even, gather(even_live, even_columns, x), even_sum_);
    odd_sum_ = _mm512_fmadd_ps(odd, gather(odd_live, odd_columns, x), odd_sum_);
  }
  [[nodiscard]] const void* values() const { return values_; }
  [[nodiscard]] float sum() const {
    return _mm512_reduce_add_ps(_mm512_add_ps(even_sum_, odd_sum_));
  }

 private:
  const typename W::Bits* values_;
  __m512i last_ = _mm512_set1_epi16(-1);
  __m512 even_sum_ = _mm512_setzero_ps();
  __m512 odd_sum_ = _mm512_setzero_ps();
};

/// Codes are cut in groups of 32 bytes; both widths read one a step.
template <class W>
class DeltaCursor {
 public:
  DeltaCursor(const GatherJob& job, std::int64_t row)
      : codes_(static_cast<const std::uint8_t*>(job.columns) + 32 * job.list_offsets[row]),
        left_(job.list_offsets[row + 1] - job.list_offsets[row]),
        state_(static_cast<const typename W::Bits*>(job.values) + job.value_offsets[row]) {}
  [[nodiscard]] std::int64_t steps() const { return left_; }
  float finish(const float*) { return state_.sum(); }

 protected:
  __m256i next_group() {
    prefetch(codes_);
    const __m256i group = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes_));
    codes_ += 32;
    --left_;
    return group;
  }
  void prefetch_values(int lines) {
    for (int i = 0; i < lines; ++i) prefetch(static_cast<const char*>(state_.values()) + 64 * i);
  }

 private:
  const std::uint8_t* codes_;
  std::int64_t left_;

 protected:
  DeltaState<W> state_;
};

/// The lane sums of 16-bit prefix sums, carried over lanes of 8 words: after this, word i holds the
/// sum of words 0 … i.
__m512i carry_eights(__m512i sums) {
  const __m512i sevens = _mm512_set_epi16(23, 23, 23, 23, 23, 23, 23, 23, 0, 0, 0, 0, 0, 0, 0, 0, 7,
                                          7, 7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0);
  return _mm512_add_epi16(sums, _mm512_maskz_permutexvar_epi16(0xFF00FF00U, sevens, sums));
}
__m512i carry_sixteens(__m512i sums) {
  return _mm512_add_epi16(sums,
                          _mm512_maskz_permutexvar_epi16(0xFFFF0000U, _mm512_set1_epi16(15), sums));
}

template <class W>
class Delta8Cursor : public DeltaCursor<W> {
 public:
  using DeltaCursor<W>::DeltaCursor;
  void step(const float* x) {
    const __m512i codes = _mm512_cvtepu8_epi16(this->next_group());
    this->prefetch_values(sizeof(typename W::Bits) / 2);
    const __mmask32 live = _mm512_test_epi16_mask(codes, codes);
    __m512i places = _mm512_mask_blend_epi16(live, _mm512_set1_epi16(255), codes);
    places = _mm512_add_epi16(places, _mm512_bslli_epi128(places, 2));
    places = _mm512_add_epi16(places, _mm512_bslli_epi128(places, 4));
    places = _mm512_add_epi16(places, _mm512_bslli_epi128(places, 8));
    this->state_.accumulate(carry_sixteens(carry_eights(places)), live, x);
  }
};

template <class W>
class Delta4Cursor : public DeltaCursor<W> {
 public:
  using DeltaCursor<W>::DeltaCursor;
  void step(const float* x) {
    const __m256i group = this->next_group();
    this->prefetch_values(sizeof(typename W::Bits));
    // Each quarter of the group (16 codes in 8 bytes) becomes 16 bytes.
    const __m512i twice = _mm512_permutexvar_epi64(_mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0),
                                                   _mm512_castsi256_si512(group));
    const __m512i shifts = _mm512_broadcast_i32x4(
        _mm_set_epi8(60, 56, 52, 48, 44, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4, 0));
    const __m512i codes =
        _mm512_and_si512(_mm512_multishift_epi64_epi8(shifts, twice), _mm512_set1_epi8(0x0F));
    const __mmask64 live = _mm512_test_epi8_mask(codes, codes);
    // 16 codes reach 240 columns at most: their sums fit in bytes.
    __m512i places = _mm512_mask_blend_epi8(live, _mm512_set1_epi8(15), codes);
    places = _mm512_add_epi8(places, _mm512_bslli_epi128(places, 1));
    places = _mm512_add_epi8(places, _mm512_bslli_epi128(places, 2));
    places = _mm512_add_epi8(places, _mm512_bslli_epi128(places, 4));
    places = _mm512_add_epi8(places, _mm512_bslli_epi128(places, 8));
    const __m512i low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(places));
    const __m512i high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(places, 1));
    this->state_.accumulate(carry_sixteens(low), static_cast<__mmask32>(live), x);
    this->state_.accumulate(carry_sixteens(high), static_cast<__mmask32>(live >> 32), x);
  }
};

/// R rows, `apart` from each other, in lockstep for as long as all have steps left.
template <class Cursor, int R>
void walk_rows(const GatherJob& job, std::int64_t row, std::int64_t apart) {
  const auto make = [&](int i) { return Cursor(job, row + i * apart); };
  Cursor cursors[R] = {make(0), make(R > 1 ? 1 : 0), make(R > 2 ? 2 : 0), make(R > 3 ? 3 : 0)};
  std::int64_t together = cursors[0].steps();
  for (int i = 1; i < R; ++i)
    together = together < cursors[i].steps() ? together : cursors[i].steps();
  for (std::int64_t s = 0; s < together; ++s) {
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) cursors[i].step(job.x);
  }
  for (int i = 0; i < R; ++i) {
    while (cursors[i].steps() > 0) cursors[i].step(job.x);
    job.sums[row + i * apart - job.row] = cursors[i].finish(job.x);
  }
}

template <class Cursor>
void walk_one(const GatherJob& job, std::int64_t row) {
  Cursor cursor(job, row);
  while (cursor.steps() > 0) cursor.step(job.x);
  job.sums[row - job.row] = cursor.finish(job.x);
}

template <class Cursor>
void all_rows(const GatherJob& job) {
  const std::int64_t apart = job.rows / kStreams;
  for (std::int64_t i = 0; i < apart; ++i) walk_rows<Cursor, kStreams>(job, job.row + i, apart);
  for (std::int64_t i = apart * kStreams; i < job.rows; ++i) walk_one<Cursor>(job, job.row + i);
}

}  // namespace

const GatherInners kCsr32Avx512 = {all_rows<CsrCursor<Bf16, std::uint32_t>>,
                                   all_rows<CsrCursor<F16, std::uint32_t>>,
                                   all_rows<CsrCursor<F32, std::uint32_t>>};
const GatherInners kCsr16Avx512 = {all_rows<CsrCursor<Bf16, std::uint16_t>>,
                                   all_rows<CsrCursor<F16, std::uint16_t>>,
                                   all_rows<CsrCursor<F32, std::uint16_t>>};
const GatherInners kDelta8Avx512 = {all_rows<Delta8Cursor<Bf16>>, all_rows<Delta8Cursor<F16>>,
                                    all_rows<Delta8Cursor<F32>>};
const GatherInners kDelta4Avx512 = {all_rows<Delta4Cursor<Bf16>>, all_rows<Delta4Cursor<F16>>,
                                    all_rows<Delta4Cursor<F32>>};

}  // namespace rarefy
