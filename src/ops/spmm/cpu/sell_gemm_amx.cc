// Sliced ELL spread over tiles beside the tile products of the panel before.
//
// A step holds one entry of each of 16 rows: 16 stores into 16 different words, one scatter. A word
// of a strip holds two neighbouring columns of a row; when an entry falls into the word of the one
// before it, both are written. So padding, which repeats a column with a value of 0, changes
// nothing. The scatter keeps the store port busy for about 16 cycles and touches the AMX unit not
// at all.
#include "ops/spmm/cpu/sell_gemm.h"
#include "ops/spmm/cpu/strip_amx_tiles.h"

namespace rarefy::strip {
namespace {

constexpr std::int64_t kPrefetchBytes = 2048;
/// Lines cleared in about the time that one step takes to scatter.
constexpr std::int64_t kLinesAStep = 8;

template <int kGapBytes>
inline __m512i load_gaps(const std::byte* p) {
  if constexpr (kGapBytes == 1)
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  else
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

/// Walks one slice through a range of columns.
template <int kGapBytes>
class Walk {
 public:
  void begin(const SellPanel& panel, std::int32_t strip) {
    cursor_ = panel.cursors + strip;
    to_ = panel.to + strip * panel.strip_stride;
    first_ = _mm512_set1_epi32(static_cast<int>(panel.first_k));
    width_ = _mm512_set1_epi32(static_cast<int>(panel.tiles * kTileK));
    step_ = cursor_->step;
    end_ = cursor_->end;
    column_ = _mm512_sub_epi32(_mm512_loadu_si512(cursor_->column), first_);
    pair_ = _mm512_set1_epi32(-1);
    word_ = _mm512_setzero_si512();
    kept_ = false;
  }

  /// One step; false when the range or the slice has ended, and the cursor stands for the next.
  bool advance() {
    if (step_ == end_) return finish();
    _mm_prefetch(reinterpret_cast<const char*>(step_ + kPrefetchBytes), _MM_HINT_T0);
    const __m512i column = _mm512_add_epi32(column_, load_gaps<kGapBytes>(step_));
    const __mmask16 past = _mm512_cmpge_epi32_mask(column, width_);
    if (past != 0) {
      if (!kept_) keep();
      if (past == 0xffff) return finish();
    }
    const __m256i raw =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(step_ + 16 * kGapBytes));
    const __mmask16 odd = _mm512_test_epi32_mask(column, _mm512_set1_epi32(1));
    const __m512i value = _mm512_cvtepu16_epi32(raw);
    const __m512i placed = _mm512_mask_slli_epi32(value, odd, value, 16);
    const __m512i pair = _mm512_srai_epi32(column, 1);
    const __mmask16 same = _mm512_cmpeq_epi32_mask(pair, pair_);
    word_ = _mm512_mask_or_epi32(placed, same, placed, word_);
    pair_ = pair;
    column_ = column;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i place = _mm512_add_epi32(_mm512_slli_epi32(pair, 4), lanes);
    // Negative columns belong to the range before: as unsigned numbers they lie past the width.
    const __mmask16 inside = _mm512_cmplt_epu32_mask(column, width_);
    _mm512_mask_i32scatter_epi32(to_, inside, place, word_, 4);
    step_ += kStep;
    return true;
  }

 private:
  static constexpr std::int64_t kStep = 16 * (kGapBytes + 2);

  void keep() {
    kept_ = true;
    cursor_->step = step_;
    _mm512_storeu_si512(cursor_->column, _mm512_add_epi32(column_, first_));
  }
  bool finish() {
    if (!kept_) keep();
    return false;
  }

  SellCursor* cursor_ = nullptr;
  std::byte* to_ = nullptr;
  const std::byte* step_ = nullptr;
  const std::byte* end_ = nullptr;
  __m512i first_, width_;
  __m512i column_;       ///< Counted from the range's first.
  __m512i pair_, word_;  ///< Of the entry before.
  bool kept_ = false;
};

/// Clears the panel, then spreads slice after slice; `pace` pieces of work a step.
template <int kGapBytes>
class Spread {
 public:
  Spread(const SellPanel& panel, std::int64_t steps) : panel_(panel) {
    lines_ = panel.tiles * (kTileBytes / kLine);
    pace_ = (pieces() + steps - 1) / steps;
    if (panel.strips > 0) walk_.begin(panel, 0);
  }
  void begin_pass() {}
  void step() {
    for (std::int64_t i = 0; i < pace_ && !done_; ++i) piece();
  }
  void finish() {
    while (!done_) piece();
  }

 private:
  /// About how many pieces the whole panel takes.
  [[nodiscard]] std::int64_t pieces() const {
    std::int64_t steps = 0;
    for (std::int32_t s = 0; s < panel_.strips; ++s) {
      const SellCursor& c = panel_.cursors[s];
      steps +=
          (c.end - c.step) / (16 * (kGapBytes + 2)) * panel_.tiles * kTileK / panel_.columns_left;
    }
    return steps + panel_.strips * lines_ / kLinesAStep;
  }

  [[gnu::always_inline]] inline void piece() {
    if (strip_ == panel_.strips) {
      done_ = true;
    } else if (cleared_ < lines_) {
      std::byte* to = panel_.to + strip_ * panel_.strip_stride + cleared_ * kLine;
      for (std::int64_t i = 0; i < kLinesAStep; ++i)
        _mm512_store_si512(to + i * kLine, _mm512_setzero_si512());
      cleared_ += kLinesAStep;
    } else if (!walk_.advance()) {
      cleared_ = 0;
      if (++strip_ < panel_.strips) walk_.begin(panel_, strip_);
    }
  }

  const SellPanel& panel_;
  Walk<kGapBytes> walk_;
  std::int64_t lines_ = 0;
  std::int64_t cleared_ = 0;
  std::int64_t pace_ = 0;
  std::int32_t strip_ = 0;
  bool done_ = false;
};

template <int kGapBytes>
void run(const Unit& unit, const Activations& x, const SellPanel& panel) {
  const std::int64_t groups = (x.token_tiles * unit.strips + 3) / 4;
  Spread<kGapBytes> side(panel, groups * (unit.width / kTileK));
  run_unit(unit, x, side);
  side.finish();
}

}  // namespace

void run_sell_amx(const Unit& unit, const Activations& x, SellPanel& panel) {
  panel.gap_bytes == 1 ? run<1>(unit, x, panel) : run<2>(unit, x, panel);
}

void spread_sell_amx(SellPanel& panel) {
  if (panel.gap_bytes == 1) {
    Spread<1>(panel, 1).finish();
  } else {
    Spread<2>(panel, 1).finish();
  }
}

void unsort_scope_amx(const float* sums, std::int64_t strip_floats, std::int64_t strips,
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
