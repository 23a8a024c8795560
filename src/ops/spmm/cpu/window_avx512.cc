// Window weights at N=1: activations are gathered from registers.
//
// A gather from L1 takes 8.2 cycles for 16 lanes. Here 128 activations lie as byte planes, two
// vectors each, and one vpermi2b (2.0 cycles of port 5) picks a byte for 64 nonzeros. A step of
// bf16 holds up to 32 pairs of nonzeros of 32 rows. Port 5: two planes 4, two vpexpandd 4.4 and two
// kmovw 2; port 0: two shifts; either: four vpternlog and adds, and vdpbf16ps, which fills both
// for 2.2 cycles, twice: 12.6 cycles a step, which is 32 positions in 1 cycle at 90 % zeros.
// Products are expanded, not their factors: one vpexpandd instead of two.
#include <immintrin.h>

#include "ops/spmm/cpu/window_inner.h"

namespace rarefy {
namespace {

constexpr int kStreams = 4;  ///< Blocks side by side, for as many streams of reads.
constexpr std::int64_t kPrefetchBytes = 1024;
constexpr std::int64_t kPlane = 128;  ///< Bytes of one plane of a window's activations.

__m512i pick(__m512i columns, const std::byte* plane) {
  return _mm512_permutex2var_epi8(_mm512_loadu_si512(plane), columns,
                                  _mm512_loadu_si512(plane + 64));
}

/// Where a stream stands.
struct Cursor {
  const std::byte* masks;
  const std::byte* data;
  const std::byte* table;  ///< Of the current window.
};

/// words[i] of the even (odd) vector: high byte and low byte number 2i (2i+1) of two planes.
struct Words {
  __m512i even, odd;
};
Words interleave(__m512i high, __m512i low) {
  const __m512i bytes = _mm512_set1_epi16(static_cast<short>(0xff00));
  // vpternlog 0xca: a ? b : c.
  return {_mm512_ternarylogic_epi32(bytes, _mm512_slli_epi16(high, 8), low, 0xca),
          _mm512_ternarylogic_epi32(bytes, high, _mm512_srli_epi16(low, 8), 0xca)};
}

template <int kParts>
struct Bf16 {
  static constexpr int kGroups = 2;
  static constexpr std::int64_t kTable = 2 * kPlane * kParts;
  static constexpr int kLaneBytes = 4;  ///< Of values, a lane.
  static void products(__m512i columns, const std::byte* table, const std::byte* const* values,
                       __m512* product) {
    const auto weights = [&](int g) {
      return reinterpret_cast<__m512bh>(_mm512_loadu_si512(values[g]));
    };
    const Words x = interleave(pick(columns, table), pick(columns, table + kPlane));
    product[0] =
        _mm512_dpbf16_ps(_mm512_setzero_ps(), reinterpret_cast<__m512bh>(x.even), weights(0));
    product[1] =
        _mm512_dpbf16_ps(_mm512_setzero_ps(), reinterpret_cast<__m512bh>(x.odd), weights(1));
    if constexpr (kParts == 2) {
      const Words rest =
          interleave(pick(columns, table + 2 * kPlane), pick(columns, table + 3 * kPlane));
      product[0] = _mm512_dpbf16_ps(product[0], reinterpret_cast<__m512bh>(rest.even), weights(0));
      product[1] = _mm512_dpbf16_ps(product[1], reinterpret_cast<__m512bh>(rest.odd), weights(1));
    }
  }
};

/// Four vectors of f32 activations for byte lanes 4q, 4q+1, 4q+2, 4q+3.
void pick_f32(__m512i columns, const std::byte* table, __m512i* x) {
  const Words high = interleave(pick(columns, table), pick(columns, table + kPlane));
  const Words low =
      interleave(pick(columns, table + 2 * kPlane), pick(columns, table + 3 * kPlane));
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  x[0] = _mm512_ternarylogic_epi32(upper, _mm512_slli_epi32(high.even, 16), low.even, 0xca);
  x[1] = _mm512_ternarylogic_epi32(upper, _mm512_slli_epi32(high.odd, 16), low.odd, 0xca);
  x[2] = _mm512_ternarylogic_epi32(upper, high.even, _mm512_srli_epi32(low.even, 16), 0xca);
  x[3] = _mm512_ternarylogic_epi32(upper, high.odd, _mm512_srli_epi32(low.odd, 16), 0xca);
}

template <class Value>
struct Single {
  static constexpr int kGroups = 4;
  static constexpr std::int64_t kTable = 4 * kPlane;
  static constexpr int kLaneBytes = sizeof(Value);
  static void products(__m512i columns, const std::byte* table, const std::byte* const* values,
                       __m512* product) {
    __m512i x[4];
    pick_f32(columns, table, x);
    for (int g = 0; g < 4; ++g) {
      __m512 w;
      if constexpr (sizeof(Value) == 4) {
        w = _mm512_loadu_ps(values[g]);
      } else {
        w = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values[g])));
      }
      product[g] = _mm512_mul_ps(w, _mm512_castsi512_ps(x[g]));
    }
  }
};

template <class W>
inline void step(Cursor& c, __m512* sum) {
  const std::byte* masks = c.masks;
  const auto mask = [masks](int g) {
    std::uint16_t bits;
    __builtin_memcpy(&bits, masks + 2 * g, sizeof bits);
    return bits;
  };
  c.masks += 2 * W::kGroups;
  c.table += (std::to_integer<std::int64_t>(*c.data) >> 7) * W::kTable;
  int lanes[W::kGroups];
  int most = 0;
  for (int g = 0; g < W::kGroups; ++g) {
    lanes[g] = _mm_popcnt_u32(mask(g));
    most = lanes[g] > most ? lanes[g] : most;
  }
  const std::byte* values[W::kGroups];
  values[0] = c.data + 4 * most;
  for (int g = 1; g < W::kGroups; ++g) values[g] = values[g - 1] + lanes[g - 1] * W::kLaneBytes;
  __m512 product[W::kGroups];
  W::products(_mm512_loadu_si512(c.data), c.table, values, product);
  const std::byte* end = values[W::kGroups - 1] + lanes[W::kGroups - 1] * W::kLaneBytes;
  _mm_prefetch(reinterpret_cast<const char*>(end + kPrefetchBytes), _MM_HINT_T0);
  _mm_prefetch(reinterpret_cast<const char*>(end + kPrefetchBytes + 64), _MM_HINT_T0);
  if constexpr (W::kGroups == 4)
    _mm_prefetch(reinterpret_cast<const char*>(end + kPrefetchBytes + 128), _MM_HINT_T0);
  c.data = end;
  for (int g = 0; g < W::kGroups; ++g)
    sum[g] = _mm512_add_ps(sum[g], _mm512_maskz_expand_ps(mask(g), product[g]));
}

/// kCount blocks of one token, a step of each in turn while all have one.
template <class W, int kCount>
void blocks_side_by_side(const WindowJob& job, std::int64_t first, std::int64_t token) {
  Cursor cursor[kCount];
  std::int64_t together = INT64_MAX;
  __m512 sum[kCount][W::kGroups];
  for (int s = 0; s < kCount; ++s) {
    cursor[s].masks = job.stream + job.offsets[first + s];
    cursor[s].data =
        cursor[s].masks + std::size_t{job.steps[first + s]} * W::kGroups * sizeof(std::uint16_t);
    cursor[s].table = static_cast<const std::byte*>(job.x) + token * job.x_stride - W::kTable;
    if (job.steps[first + s] < together) together = job.steps[first + s];
    for (__m512& v : sum[s]) v = _mm512_setzero_ps();
  }
  for (std::int64_t i = 0; i < together; ++i) {
#pragma GCC unroll 4
    for (int s = 0; s < kCount; ++s) step<W>(cursor[s], sum[s]);
  }
  for (int s = 0; s < kCount; ++s) {
    for (std::int64_t i = together; i < job.steps[first + s]; ++i) step<W>(cursor[s], sum[s]);
    float* out = job.sums + ((first + s) * job.tokens + token) * 16 * W::kGroups;
    for (int g = 0; g < W::kGroups; ++g) _mm512_storeu_ps(out + 16 * g, sum[s][g]);
  }
}

/// Lanes past a group's last hold whatever bytes come next, often subnormal as f32, and each of
/// those would cost a microcode assist (five times slower in all): they count as zero meanwhile.
/// Subnormal f32 weights and activations do too, as they do in vdpbf16ps.
class FlushSubnormals {
 public:
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | kFlushToZero | kZeroSubnormals); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  static constexpr unsigned kFlushToZero = 0x8000, kZeroSubnormals = 0x0040;
  unsigned saved_;
};

/// All tokens pass over four blocks while these lie in L2.
template <class W>
void run(const WindowJob& job) {
  std::int64_t block = 0;
  for (; block + kStreams <= job.blocks; block += kStreams)
    for (std::int64_t t = 0; t < job.tokens; ++t) blocks_side_by_side<W, kStreams>(job, block, t);
  for (; block < job.blocks; ++block)
    for (std::int64_t t = 0; t < job.tokens; ++t) blocks_side_by_side<W, 1>(job, block, t);
}

/// Stores byte `kByte` of each of 128 dwords.
template <int kByte>
void store_plane(const __m512i* dwords, std::byte* plane) {
  for (int i = 0; i < 8; ++i)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(plane + 16 * i),
                     _mm512_cvtepi32_epi8(_mm512_srli_epi32(dwords[i], 8 * kByte)));
}

__m512i round_to_bf16(__m512 x) {
  return _mm512_slli_epi32(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x))),
                           16);
}

}  // namespace

void window_bf16_avx512(const WindowJob& job) {
  if (job.parts == 1) {
    run<Bf16<1>>(job);
  } else {
    run<Bf16<2>>(job);
  }
}
void window_f16_avx512(const WindowJob& job) {
  const FlushSubnormals flush;
  run<Single<std::uint16_t>>(job);
}
void window_f32_avx512(const WindowJob& job) {
  const FlushSubnormals flush;
  run<Single<float>>(job);
}

void window_tables_bf16(const float* x, std::int64_t windows, int parts, void* tables) {
  auto* to = static_cast<std::byte*>(tables);
  for (std::int64_t w = 0; w < windows; ++w, x += 128) {
    __m512i part[8];
    for (int i = 0; i < 8; ++i) part[i] = round_to_bf16(_mm512_loadu_ps(x + 16 * i));
    store_plane<3>(part, to);
    store_plane<2>(part, to + kPlane);
    to += 2 * kPlane;
    if (parts == 1) continue;
    for (int i = 0; i < 8; ++i) {
      // Infinities and NaN, and numbers that round to infinity, leave nothing.
      const __m512 high = _mm512_castsi512_ps(part[i]);
      const auto finite = static_cast<__mmask16>(~_mm512_fpclass_ps_mask(high, 0x99));
      part[i] = round_to_bf16(_mm512_maskz_sub_ps(finite, _mm512_loadu_ps(x + 16 * i), high));
    }
    store_plane<3>(part, to);
    store_plane<2>(part, to + kPlane);
    to += 2 * kPlane;
  }
}

void window_tables_f32(const float* x, std::int64_t windows, void* tables) {
  auto* to = static_cast<std::byte*>(tables);
  for (std::int64_t w = 0; w < windows; ++w, x += 128, to += 4 * kPlane) {
    __m512i bits[8];
    for (int i = 0; i < 8; ++i) bits[i] = _mm512_loadu_si512(x + 16 * i);
    store_plane<3>(bits, to);
    store_plane<2>(bits, to + kPlane);
    store_plane<1>(bits, to + 2 * kPlane);
    store_plane<0>(bits, to + 3 * kPlane);
  }
}

}  // namespace rarefy
