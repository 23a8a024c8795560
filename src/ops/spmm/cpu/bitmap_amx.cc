// Bitmap weights through AMX at N up to 16.
//
// Expanding 32 weights takes vpexpandw (2.2 cycles of port 5) and kmovd (1.0 of port 5): 3.2 cycles
// is the floor of this layout. Every multiplication on ports 0 and 5 comes on top (shift, and, two
// FMA: 4.5 in all; vdpbf16ps alone takes 2.2 of both), while AMX has a unit of its own: the decoded
// tile goes through a ring in L1, and tile loads read what was stored a round of four tiles before,
// when the stores have left the store buffer (a tile load cannot forward from it).
#include "ops/spmm/cpu/bitmap_inner.h"
#include "ops/spmm/cpu/bitmap_tile_amx.h"

namespace rarefy {
namespace {

constexpr int kStreams = 4;  ///< Row blocks decoded at once: streams of DRAM reads, and C tiles.
constexpr std::int64_t kTileBytes = 1024;
constexpr std::int64_t kPrefetchBytes = 1024;

/// Tile registers 0…3 gather sums (tokens × 16 rows), 4 and 5 hold the activations' parts (tokens ×
/// 32 columns), 6 and 7 decoded weights (16 pairs × 32).
void configure_tiles(std::int64_t tokens) {
  alignas(64) struct {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {};
    std::uint8_t rows[16] = {};
  } config;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes_per_row[tile] = 64;
    config.rows[tile] = tile < 6 ? static_cast<std::uint8_t>(tokens) : 16;
  }
  // Not _tile_loadconfig: GCC 12 lets the stores above die before it.
  __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
}

inline void prefetch(const std::byte* from, std::int64_t lines) {
  for (std::int64_t i = 0; i < lines; ++i)
    _mm_prefetch(reinterpret_cast<const char*>(from + kPrefetchBytes + 64 * i), _MM_HINT_T0);
}

/// Sums of stream kStream += x · decoded. (GCC 12 takes tile numbers as literals only.)
template <int kStream>
inline void multiply(const std::byte* decoded, int parts) {
  if constexpr (kStream == 0) {
    _tile_loadd(6, decoded, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (parts == 2) _tile_dpbf16ps(0, 5, 6);
  } else if constexpr (kStream == 1) {
    _tile_loadd(7, decoded, 64);
    _tile_dpbf16ps(1, 4, 7);
    if (parts == 2) _tile_dpbf16ps(1, 5, 7);
  } else if constexpr (kStream == 2) {
    _tile_loadd(6, decoded, 64);
    _tile_dpbf16ps(2, 4, 6);
    if (parts == 2) _tile_dpbf16ps(2, 5, 6);
  } else {
    _tile_loadd(7, decoded, 64);
    _tile_dpbf16ps(3, 4, 7);
    if (parts == 2) _tile_dpbf16ps(3, 5, 7);
  }
}

/// `streams` ≤ 4 row blocks side by side; decode runs one round ahead of the products.
template <int kCount>
void blocks_side_by_side(const BitmapAmxJob& job, std::int64_t first, std::byte* ring) {
  const std::byte* next[kCount];
  std::int64_t lines[kCount];
  for (int s = 0; s < kCount; ++s) {
    const std::uint64_t begin = job.offsets[first + s];
    next[s] = job.stream + begin;
    lines[s] =
        (static_cast<std::int64_t>(job.offsets[first + s + 1] - begin) / job.tiles + 63) / 64;
  }
  const auto* x = static_cast<const std::byte*>(job.x);
  const std::int64_t part_bytes = job.tokens * 64;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t tile = 0; tile <= job.tiles; ++tile) {
    std::byte* const ahead = ring + (tile & 1) * kStreams * kTileBytes;
    const std::byte* const behind = ring + ((tile & 1) ^ 1) * kStreams * kTileBytes;
    if (tile > 0) {
      _tile_loadd(4, x, 64);
      if (job.parts == 2) _tile_loadd(5, x + part_bytes, 64);
      x += job.parts * part_bytes;
      // The next round's activations: many tokens' lie in L2, and 16 misses would stall the tile.
      for (std::int64_t i = 0; i < job.parts * job.tokens; ++i)
        _mm_prefetch(reinterpret_cast<const char*>(x + 64 * i), _MM_HINT_T0);
    }
    const auto one = [&]<int s>() {
      if constexpr (s < kCount) {
        if (tile > 0) multiply<s>(behind + s * kTileBytes, job.parts);
        if (tile < job.tiles) {
          prefetch(next[s], lines[s]);
          next[s] = expand_tile(next[s], ahead + s * kTileBytes);
        }
      }
    };
    one.template operator()<0>();
    one.template operator()<1>();
    one.template operator()<2>();
    one.template operator()<3>();
  }
  float* sums = job.sums + first * job.tokens * 16;
  _tile_stored(0, sums, 64);
  if (kCount > 1) _tile_stored(1, sums + job.tokens * 16, 64);
  if (kCount > 2) _tile_stored(2, sums + 2 * job.tokens * 16, 64);
  if (kCount > 3) _tile_stored(3, sums + 3 * job.tokens * 16, 64);
}

}  // namespace

void bitmap_bf16_amx(const BitmapAmxJob& job) {
  alignas(64) std::byte ring[2 * kStreams * kTileBytes];
  configure_tiles(job.tokens);
  std::int64_t block = 0;
  for (; block + kStreams <= job.blocks; block += kStreams)
    blocks_side_by_side<kStreams>(job, block, ring);
  if (block + 2 <= job.blocks) {
    blocks_side_by_side<2>(job, block, ring);
    block += 2;
  }
  if (block < job.blocks) blocks_side_by_side<1>(job, block, ring);
  _tile_release();
}

void bitmap_amx_activations(const float* x, std::int64_t stride, std::int64_t tokens, int parts,
                            std::int64_t first, std::int64_t last, void* out) {
  auto* to = static_cast<std::byte*>(out) + first * parts * tokens * 64;
  const auto to_bf16 = [](__m512 even_half, __m512 odd_half) {
    return _mm512_cvtne2ps_pbh(odd_half, even_half);
  };
  const auto widen = [](__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  };
  // What bf16 leaves of x. Nothing for infinities and NaN, and for the few finite numbers that
  // round to infinity (x - inf would make a NaN of them).
  const auto rest = [&](__m512 v, __m256i rounded) {
    const __m512 high = widen(rounded);
    const __mmask16 finite = static_cast<__mmask16>(~_mm512_fpclass_ps_mask(high, 0x99));
    return _mm512_maskz_sub_ps(finite, v, high);
  };
  for (std::int64_t tile = first; tile < last; ++tile) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const __m512 a = _mm512_loadu_ps(x + t * stride + tile * 32);
      const __m512 b = _mm512_loadu_ps(x + t * stride + tile * 32 + 16);
      const auto high = reinterpret_cast<__m512i>(to_bf16(a, b));
      _mm512_storeu_si512(to + t * 64, high);
      if (parts == 1) continue;
      const __m512 rest_a = rest(a, _mm512_castsi512_si256(high));
      const __m512 rest_b = rest(b, _mm512_extracti64x4_epi64(high, 1));
      _mm512_storeu_si512(to + (tokens + t) * 64,
                          reinterpret_cast<__m512i>(to_bf16(rest_a, rest_b)));
    }
    to += parts * tokens * 64;
  }
}

}  // namespace rarefy
