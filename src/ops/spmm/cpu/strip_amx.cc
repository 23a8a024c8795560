// Strips on AMX: token tiles are the A operand, weight tiles (16 outputs × 32 k in VNNI order) the
// B operand, and a tile of sums has one token a row.
//
// Counted on one core at about 4 GHz: a tdpbf16ps 4.2 ns, a tile load 2.4 ns from L1 and 5.9 ns
// from L2, 36 ns from L3. Two strips by two token tiles need as many loads as products and run at
// 71 % of the peak from L2; one strip by four token tiles at 65 %. Weights are read ahead from
// memory by software prefetch, spread over all products, because the L2 prefetcher stops at every 4
// KiB page. GCC 12 warns about the undefined operands inside its own intrinsics (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include <utility>

#include "ops/spmm/cpu/strip_engine.h"

namespace rarefy::strip {
namespace {

constexpr std::int64_t kTileBytes = 1024;
constexpr std::int64_t kTileK = 32;
constexpr std::int64_t kLine = 64;

// GCC's intrinsics take literal register numbers only; these take template arguments. The memory
// clobbers keep loads behind the stores of scratch that they read.
template <int kTile>
inline void load(const void* from) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(kLine), "i"(kTile) : "memory");
}
template <int kTile>
inline void store(void* to) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(kLine), "i"(kTile) : "memory");
}
template <int kTile>
inline void zero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kSum, int kTokens, int kWeights>
inline void multiply() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kTokens),
                   "i"(kWeights));
}

template <int kCount, class Body>
[[gnu::always_inline]] inline void unrolled(Body&& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, kCount>{});
}

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

/// kStrips strips by kTokenTiles token tiles: kStrips·kTokenTiles ≤ 4 tiles of sums in registers
/// 0-3, activations in 4 and 5, weights in 6 and 7. The roles are fixed because the shape of a
/// register is: a tile of activations has as many rows as there are tokens.
template <int kStrips, int kTokenTiles>
struct Registers {
  static constexpr int sum(int s, int t) { return s * kTokenTiles + t; }
  static constexpr int tokens(int t) { return 4 + t % 2; }
  static constexpr int weights(int s) { return 6 + s % 2; }
};

/// One tile of k: loads what is shared first, then each product follows its last operand.
template <int kStrips, int kTokenTiles, int kParts>
[[gnu::always_inline]] inline void step(const std::byte* weights, std::int64_t strip_stride,
                                        const std::byte* tokens) {
  using R = Registers<kStrips, kTokenTiles>;
  if constexpr (kStrips == 4) {
    unrolled<kParts>([&](auto part) __attribute__((always_inline)) {
      load<R::tokens(0)>(tokens + part * kTileBytes);
      unrolled<kStrips>([&](auto s) __attribute__((always_inline)) {
        load<R::weights(s)>(weights + s * strip_stride);
        multiply<R::sum(s, 0), R::tokens(0), R::weights(s)>();
      });
    });
  } else {
    unrolled<kStrips>([&](auto s) __attribute__((always_inline)) {
      load<R::weights(s)>(weights + s * strip_stride);
    });
    unrolled<kParts>([&](auto part) __attribute__((always_inline)) {
      unrolled<kTokenTiles>([&](auto t) __attribute__((always_inline)) {
        load<R::tokens(t)>(tokens + (t * kParts + part) * kTileBytes);
        unrolled<kStrips>([&](auto s) __attribute__((always_inline)) {
          multiply<R::sum(s, t), R::tokens(t), R::weights(s)>();
        });
      });
    });
  }
}

/// All blocks of a unit for token tiles [first, first + kTokenTiles).
template <int kStrips, int kTokenTiles, int kParts>
void run_tiles(const Unit& u, const Activations& x, std::int32_t first, int lines_a_step,
               Walker& walker) {
  using R = Registers<kStrips, kTokenTiles>;
  float* sums = u.sums + first * kSumTileFloats;
  const std::int64_t strip_sums = std::int64_t{x.token_tiles} * kSumTileFloats;
  unrolled<kStrips>([&](auto s) {
    unrolled<kTokenTiles>([&](auto t) {
      if (u.add) {
        load<R::sum(s, t)>(sums + s * strip_sums + t * kSumTileFloats);
      } else {
        zero<R::sum(s, t)>();
      }
    });
  });

  const std::int64_t k_stride = std::int64_t{x.token_tiles} * kParts * kTileBytes;
  const auto* tokens =
      static_cast<const std::byte*>(x.data) + std::int64_t{first} * kParts * kTileBytes;
  const std::int64_t tiles = u.width / kTileK;
  for (std::int32_t i = 0; i < u.blocks; ++i) {
    const std::byte* w = u.values + i * u.block_stride;
    const std::int64_t k = u.first_k + (u.columns != nullptr ? u.columns[i] * u.width : 0);
    const std::byte* a = tokens + k / kTileK * k_stride;
    for (std::int64_t j = 0; j < tiles; ++j, w += kTileBytes, a += k_stride) {
      step<kStrips, kTokenTiles, kParts>(w, u.strip_stride, a);
      for (int line = 0; line < lines_a_step; ++line) prefetch_line(walker);
    }
  }

  unrolled<kStrips>([&](auto s) {
    unrolled<kTokenTiles>(
        [&](auto t) { store<R::sum(s, t)>(sums + s * strip_sums + t * kSumTileFloats); });
  });
}

template <int kStrips, int kParts>
void run_strips(const Unit& u, const Activations& x, Walker& walker) {
  constexpr int kGroup = 4 / kStrips;
  const std::int32_t groups = (x.token_tiles + kGroup - 1) / kGroup;
  // One tile of k of each strip is read per `groups` steps, so that its 16 lines are spread over
  // them.
  const int lines = (16 + groups - 1) / groups;
  for (std::int32_t first = 0; first < x.token_tiles; first += kGroup) {
    switch (x.token_tiles - first) {
      case 1:
        run_tiles<kStrips, 1, kParts>(u, x, first, lines, walker);
        break;
      case 2:
        run_tiles < kStrips, kGroup<2 ? kGroup : 2, kParts>(u, x, first, lines, walker);
        break;
      case 3:
        run_tiles < kStrips, kGroup<3 ? kGroup : 3, kParts>(u, x, first, lines, walker);
        break;
      default:
        run_tiles<kStrips, kGroup, kParts>(u, x, first, lines, walker);
    }
  }
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

void amx_prefetch(Walker& walker, std::int64_t bytes) {
  for (; bytes > 0 && walker.unit != walker.end; bytes -= kLine) prefetch_line(walker);
}

void run_amx(const Unit& unit, const Activations& x, Walker& walker) {
  const int which = unit.strips * 2 + (x.parts - 1);
  switch (which) {
    case 2:
      return run_strips<1, 1>(unit, x, walker);
    case 3:
      return run_strips<1, 2>(unit, x, walker);
    case 4:
      return run_strips<2, 1>(unit, x, walker);
    case 5:
      return run_strips<2, 2>(unit, x, walker);
    case 8:
      return run_strips<4, 1>(unit, x, walker);
    default:
      return run_strips<4, 2>(unit, x, walker);
  }
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
