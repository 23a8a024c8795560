// Strips on AMX: token tiles are the A operand, weight tiles (16 outputs × 32 k in VNNI order) the
// B operand, and a tile of sums has one token a row.
//
// Counted on one core at about 4 GHz: a tdpbf16ps 4.2 ns; a tile load 2.4 ns from L1, 6 ns from L2,
// 35 ns from L3. Two strips by two token tiles need as many loads as products: 7 ns a product.
// Software prefetch costs about 1 ns a line even where the line is there already, so that weights
// are read ahead only where many products share the cost; elsewhere the hardware reaches the 44
// GB/s of this memory by itself.
#include "ops/spmm/cpu/strip_amx_tiles.h"

namespace rarefy::strip {
namespace {

[[gnu::always_inline]] inline void prefetch_line(Walker& w) {
  if (w.unit == w.end) return;
  const Unit& u = *w.unit;
  const std::byte* p = u.values + w.block * u.block_stride + w.offset;
  for (std::int32_t s = 0; s < u.strips; ++s)
    _mm_prefetch(reinterpret_cast<const char*>(p + s * u.strip_stride), _MM_HINT_T1);
  w.offset += kLine;
  if (w.offset < u.width * (kTileBytes / kTileK)) return;
  w.offset = 0;
  if (++w.block < u.blocks) return;
  w.block = 0;
  do {
    ++w.unit;
  } while (w.unit != w.end && w.unit->blocks == 0);
}

/// Beside the products: reads weights ahead. One tile of k of each strip is used per `groups`
/// steps, and its 16 lines are spread over them.
struct ReadAhead {
  Walker& walker;
  int lines;
  void step() {
    for (int line = 0; line < lines; ++line) prefetch_line(walker);
  }
};

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

void amx_prefetch(Walker& walker, std::int64_t bytes) {
  for (; bytes > 0 && walker.unit != walker.end; bytes -= kLine) prefetch_line(walker);
}

void run_amx(const Unit& unit, const Activations& x, Walker& walker) {
  constexpr std::int32_t kEnoughGroups = 4;
  const std::int32_t groups = (x.token_tiles * unit.strips + 3) / 4;
  ReadAhead side{walker, groups < kEnoughGroups ? 0 : (16 + groups - 1) / groups};
  run_unit(unit, x, side);
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
