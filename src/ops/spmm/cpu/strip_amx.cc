// Strips on AMX: token tiles are the A operand, weight tiles (16 outputs × 32 k in VNNI order) the
// B operand, and a tile of sums has one token a row.
//
// Counted on one core at about 4 GHz: a tdpbf16ps 4.2 ns; a tile load 2.4 ns from L1, 6 ns from L2,
// 35 ns from L3. Two strips by two token tiles need as many loads as products: 7 ns a product.
// Software prefetch costs about 1 ns a line even where the line is there already, so that weights
// are read ahead only where many products share the cost; elsewhere the hardware reaches the 44
// GB/s of this memory by itself.
#include <algorithm>

#include "ops/spmm/cpu/strip_amx_tiles.h"

namespace rarefy::strip {
namespace {

/// Beside the products: reads the weights of the next unit ahead, a tile of k of each strip per
/// step. A pass reads kLines of a tile's 16 lines, and the passes share them.
template <int kLines>
class ReadAhead {
 public:
  explicit ReadAhead(const Unit& next)
      : strips_(next.strips),
        strip_stride_(next.strip_stride),
        values_(next.values),
        tiles_(next.blocks * (next.width / kTileK)) {
    const std::int64_t piece_bytes = next.width / kTileK * kTileBytes;
    const bool one_piece = next.blocks == 1 || next.block_stride == piece_bytes;
    piece_tiles_ = one_piece ? tiles_ : next.width / kTileK;
    skip_ = next.block_stride - piece_bytes;
  }

  void begin_pass() {
    from_ = values_ + std::min<std::int64_t>(pass_, kPasses - 1) * kLines * kLine;
    ++pass_;
    left_ = tiles_;
    piece_left_ = piece_tiles_;
  }
  void step() {
    if (left_ > 0) read<kLines>();
  }
  /// What the passes had no steps for.
  void finish() {
    from_ -= (std::min<std::int64_t>(pass_, kPasses) - 1) * kLines * kLine;
    while (left_ > 0) read<kTileBytes / kLine>();
  }

 private:
  static constexpr std::int64_t kPasses = kTileBytes / kLine / kLines;

  template <int kCount>
  [[gnu::always_inline]] void read() {
    const std::byte* strip = from_;
    for (std::int32_t s = 0; s < strips_; ++s, strip += strip_stride_) {
      for (int line = 0; line < kCount; ++line)
        _mm_prefetch(reinterpret_cast<const char*>(strip + line * kLine), _MM_HINT_T1);
    }
    from_ += kTileBytes;
    --left_;
    if (--piece_left_ > 0) return;
    from_ += skip_;
    piece_left_ = piece_tiles_;
  }

  std::int64_t strips_, strip_stride_;
  const std::byte* values_;
  std::int64_t tiles_, piece_tiles_, skip_;
  const std::byte* from_ = nullptr;
  std::int64_t pass_ = 0, left_ = 0, piece_left_ = 0;
};

/// Nothing beside the products.
struct Alone {
  static void begin_pass() {}
  static void step() {}
};

template <int kLines>
void run_reading_ahead(const Unit& unit, const Activations& x, const Unit& next) {
  ReadAhead<kLines> side(next);
  run_unit(unit, x, side);
  side.finish();
}

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

constexpr __mmask32 low_lanes(std::int64_t count) {
  return count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
}

/// Two vectors of f32 to 32 lanes of bf16, in order.
inline __m512i to_bf16(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

inline __m512 widen_low(__m512i bf16) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(bf16)), 16));
}
inline __m512 widen_high(__m512i bf16) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(bf16, 1)), 16));
}

/// x - (x as bf16), or 0 where that is not finite: infinity and NaN travel in the first part alone.
inline __m512 remainder(__m512 x, __m512 rounded) {
  constexpr int kNotFinite = 0x01 | 0x08 | 0x10 | 0x80;  // QNaN, ±infinity, SNaN
  return _mm512_maskz_sub_ps(_mm512_knot(_mm512_fpclass_ps_mask(rounded, kNotFinite)), x, rounded);
}

/// Largest finite bf16. Finite values beyond it would round to infinity: they stop here, and the
/// remainder carries the rest.
inline __m512 clamp_finite(__m512 x) {
  const __m512 limit = _mm512_castsi512_ps(_mm512_set1_epi32(0x7F7F0000));
  const __m512 magnitude = _mm512_abs_ps(x);
  const __m512 infinity = _mm512_castsi512_ps(_mm512_set1_epi32(0x7F800000));
  const __mmask16 beyond = _mm512_cmp_ps_mask(magnitude, limit, _CMP_GT_OQ) &
                           _mm512_cmp_ps_mask(magnitude, infinity, _CMP_LT_OQ);
  return _mm512_mask_min_ps(
      _mm512_mask_max_ps(x, beyond, x, _mm512_sub_ps(_mm512_setzero_ps(), limit)), beyond, x,
      limit);
}

template <class Convert>
[[gnu::always_inline]] inline void pack_rows(const AmxPack& p, Convert&& convert) {
  for (std::int64_t k = 0; k < p.columns; k += kTileK) {
    std::byte* tile = p.to + k / kTileK * p.tile_stride;
    const std::int64_t live = p.columns - k;
    for (std::int64_t r = 0; r < p.rows; ++r) convert(r, k, live, tile + r * kLine);
    for (std::int64_t r = p.rows; r < p.tokens; ++r) convert(r, k, 0, tile + r * kLine);
  }
}

}  // namespace

void amx_begin(int tokens) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = static_cast<std::uint8_t>(tile < 6 ? tokens : 16);
  }
  // GCC 12's _tile_loadconfig does not say that it reads the config; the clobber does.
  __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}

void amx_end() {
  __asm__ volatile("tilerelease" ::: "memory");
}

void run_amx(const Unit& unit, const Activations& x, const Unit* next) {
  const std::int32_t passes = (x.token_tiles * unit.strips + 3) / 4;
  if (next == nullptr || passes == 1) {
    Alone side;
    return run_unit(unit, x, side);
  }
  if (passes < 4) return run_reading_ahead<8>(unit, x, *next);
  if (passes < 8) return run_reading_ahead<4>(unit, x, *next);
  if (passes < 16) return run_reading_ahead<2>(unit, x, *next);
  run_reading_ahead<1>(unit, x, *next);
}

void amx_pack_bf16(const AmxPack& p) {
  const auto* from = static_cast<const std::uint16_t*>(p.from);
  pack_rows(
      p, [&](std::int64_t r, std::int64_t k, std::int64_t live,
             std::byte * to) __attribute__((always_inline)) {
        const __m512i x = _mm512_maskz_loadu_epi16(low_lanes(live), from + r * p.row_stride + k);
        _mm512_store_si512(to, x);
      });
}

void amx_pack_f32(const AmxPack& p) {
  const auto* from = static_cast<const float*>(p.from);
  pack_rows(
      p, [&](std::int64_t r, std::int64_t k, std::int64_t live,
             std::byte * to) __attribute__((always_inline)) {
        const __mmask32 lanes = low_lanes(live);
        const float* row = from + r * p.row_stride + k;
        const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), row);
        const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes >> 16), row + 16);
        _mm512_store_si512(to, to_bf16(low, high));
      });
}

void amx_pack_split(const AmxPack& p) {
  const auto* from = static_cast<const float*>(p.from);
  pack_rows(
      p, [&](std::int64_t r, std::int64_t k, std::int64_t live,
             std::byte * to) __attribute__((always_inline)) {
        const __mmask32 lanes = low_lanes(live);
        const float* row = from + r * p.row_stride + k;
        const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), row);
        const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes >> 16), row + 16);
        const __m512i rounded = to_bf16(clamp_finite(low), clamp_finite(high));
        _mm512_store_si512(to, rounded);
        _mm512_store_si512(to + kTileBytes, to_bf16(remainder(low, widen_low(rounded)),
                                                    remainder(high, widen_high(rounded))));
      });
}

}  // namespace rarefy::strip
