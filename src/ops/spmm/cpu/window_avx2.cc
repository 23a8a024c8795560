// Window weights with AVX2: eight rows at a time. Their lanes lie together in the stream, so that
// one load brings their columns and one their values; activations are gathered from L1, and the
// products permuted to their rows. What lies past the last lane is multiplied, too, and dropped.
#include <immintrin.h>

#include <array>

#include "ops/spmm/cpu/window_inner.h"

namespace rarefy {
namespace {

constexpr int kStreams = 4;  ///< Blocks side by side, for as many streams of reads.
constexpr std::int64_t kPrefetchBytes = 1024;

/// Byte r of spread[mask]: which lane is row r's, or -1 where bit r of the mask is clear.
constexpr std::array<std::uint64_t, 256> make_spread() {
  std::array<std::uint64_t, 256> spread{};
  for (unsigned mask = 0; mask < 256; ++mask) {
    std::uint64_t lane = 0;
    for (unsigned row = 0; row < 8; ++row) {
      const bool set = (mask >> row & 1) != 0;
      spread[mask] |= (set ? lane : std::uint64_t{0xff}) << 8 * row;
      lane += set ? 1 : 0;
    }
  }
  return spread;
}
constexpr std::array<std::uint64_t, 256> kSpread = make_spread();

/// Lanes of products to the rows of `mask`, zeros to the others.
__m256 spread(__m256 lanes, unsigned mask) {
  const __m256i from =
      _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(static_cast<long long>(kSpread[mask])));
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(lanes, from), _mm256_setzero_ps(),
                          _mm256_castsi256_ps(from));
}

/// Activations of the column byte at bit `shift` of each lane.
__m256 pick(__m256i columns, int shift, const float* x) {
  const __m256i column = _mm256_and_si256(_mm256_srl_epi32(columns, _mm_cvtsi32_si128(shift)),
                                          _mm256_set1_epi32(0x7f));
  return _mm256_i32gather_ps(x, column, 4);
}

struct Bf16 {
  static constexpr int kGroups = 2;
  static constexpr int kLaneBytes = 4;  ///< Of values, a lane.
  static __m256 products(__m256i columns, int group, const float* x, const std::byte* values) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
    const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    const __m256 second = _mm256_castsi256_ps(
        _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
    return _mm256_fmadd_ps(second, pick(columns, 16 + 8 * group, x),
                           _mm256_mul_ps(first, pick(columns, 8 * group, x)));
  }
};

template <class Value>
struct Single {
  static constexpr int kGroups = 4;
  static constexpr int kLaneBytes = sizeof(Value);
  static __m256 products(__m256i columns, int group, const float* x, const std::byte* values) {
    __m256 w;
    if constexpr (sizeof(Value) == 4) {
      w = _mm256_loadu_ps(reinterpret_cast<const float*>(values));
    } else {
      w = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
    }
    return _mm256_mul_ps(w, pick(columns, 8 * group, x));
  }
};

/// Where a stream stands.
struct Cursor {
  const std::byte* masks;
  const std::byte* data;
  const float* x;  ///< Of the current window.
};

template <class W>
inline void step(Cursor& c, __m256* sum) {
  c.x += (static_cast<int>(*c.data) >> 7) * 128;
  unsigned mask[W::kGroups];
  int most = 0;
  for (int g = 0; g < W::kGroups; ++g) {
    std::uint16_t bits;
    __builtin_memcpy(&bits, c.masks + 2 * g, sizeof bits);
    mask[g] = bits;
    const int lanes = static_cast<int>(_mm_popcnt_u32(bits));
    most = lanes > most ? lanes : most;
  }
  c.masks += 2 * W::kGroups;
  const std::byte* values = c.data + 4 * most;
  for (int g = 0; g < W::kGroups; ++g) {
    const std::byte* columns = c.data;
    for (int half = 0; half < 2; ++half) {
      const unsigned rows = mask[g] >> 8 * half & 0xff;
      const int lanes = static_cast<int>(_mm_popcnt_u32(rows));
      const __m256 products = W::products(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns)), g, c.x, values);
      sum[2 * g + half] = _mm256_add_ps(sum[2 * g + half], spread(products, rows));
      columns += 4 * lanes;
      values += lanes * W::kLaneBytes;
    }
  }
  for (int line = 0; line < W::kGroups; ++line)
    _mm_prefetch(reinterpret_cast<const char*>(values + kPrefetchBytes + 64 * line), _MM_HINT_T0);
  c.data = values;
}

/// kCount blocks of one token, a step of each in turn while all have one.
template <class W, int kCount>
void blocks_side_by_side(const WindowJob& job, std::int64_t first, std::int64_t token) {
  constexpr int kVectors = 2 * W::kGroups;
  Cursor cursor[kCount];
  std::int64_t together = INT64_MAX;
  __m256 sum[kCount][kVectors];
  for (int s = 0; s < kCount; ++s) {
    cursor[s].masks = job.stream + job.offsets[first + s];
    cursor[s].data =
        cursor[s].masks + std::size_t{job.steps[first + s]} * W::kGroups * sizeof(std::uint16_t);
    cursor[s].x = reinterpret_cast<const float*>(static_cast<const std::byte*>(job.x) +
                                                 token * job.x_stride) -
                  128;
    if (job.steps[first + s] < together) together = job.steps[first + s];
    for (__m256& v : sum[s]) v = _mm256_setzero_ps();
  }
  for (std::int64_t i = 0; i < together; ++i) {
    for (int s = 0; s < kCount; ++s) step<W>(cursor[s], sum[s]);
  }
  for (int s = 0; s < kCount; ++s) {
    for (std::int64_t i = together; i < job.steps[first + s]; ++i) step<W>(cursor[s], sum[s]);
    float* out = job.sums + ((first + s) * job.tokens + token) * 8 * kVectors;
    for (int v = 0; v < kVectors; ++v) _mm256_storeu_ps(out + 8 * v, sum[s][v]);
  }
}

/// Bytes past a group's last lane are often subnormal as f32, and each such product would cost a
/// microcode assist: they count as zero meanwhile, as do subnormal weights and activations.
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
  const FlushSubnormals flush;
  std::int64_t block = 0;
  for (; block + kStreams <= job.blocks; block += kStreams)
    for (std::int64_t t = 0; t < job.tokens; ++t) blocks_side_by_side<W, kStreams>(job, block, t);
  for (; block < job.blocks; ++block)
    for (std::int64_t t = 0; t < job.tokens; ++t) blocks_side_by_side<W, 1>(job, block, t);
}

}  // namespace

void window_bf16_avx2(const WindowJob& job) {
  run<Bf16>(job);
}
void window_f16_avx2(const WindowJob& job) {
  run<Single<std::uint16_t>>(job);
}
void window_f32_avx2(const WindowJob& job) {
  run<Single<float>>(job);
}

}  // namespace rarefy
