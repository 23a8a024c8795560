// Bitmap weights with AVX2: eight lanes at a time are put in place by a shuffle from a table that
// the mask byte indexes.
#include <immintrin.h>

#include "ops/spmm/cpu/bitmap_inner.h"

namespace rarefy {
namespace {

constexpr std::int64_t kPrefetchBytes = 1024;

/// For each mask byte, where lane i comes from: byte pairs for pshufb (absent lanes 0x80, which
/// gives zero).
struct Expand16 {
  alignas(16) std::uint8_t shuffle[256][16];
};
constexpr Expand16 make_expand16() {
  Expand16 table{};
  for (int mask = 0; mask < 256; ++mask) {
    int source = 0;
    for (int lane = 0; lane < 8; ++lane) {
      const bool set = ((mask >> lane) & 1) != 0;
      table.shuffle[mask][2 * lane] = static_cast<std::uint8_t>(set ? 2 * source : 0x80);
      table.shuffle[mask][2 * lane + 1] = static_cast<std::uint8_t>(set ? 2 * source + 1 : 0x80);
      source += set ? 1 : 0;
    }
  }
  return table;
}
constexpr Expand16 kExpand16 = make_expand16();

/// The same for 32-bit lanes: indices for vpermps, and all ones where a lane is present.
struct Expand32 {
  alignas(32) std::uint32_t source[256][8];
  alignas(32) std::uint32_t present[256][8];
};
constexpr Expand32 make_expand32() {
  Expand32 table{};
  for (int mask = 0; mask < 256; ++mask) {
    std::uint32_t source = 0;
    for (int lane = 0; lane < 8; ++lane) {
      const bool set = ((mask >> lane) & 1) != 0;
      table.source[mask][lane] = set ? source : 0;
      table.present[mask][lane] = set ? 0xffffffffU : 0U;
      source += set ? 1 : 0;
    }
  }
  return table;
}
constexpr Expand32 kExpand32 = make_expand32();

/// Eight lanes of 16 bits are four rows by two columns; `w` gets them as f32, `kQuarters` vectors a
/// group of 32 lanes.
struct Words {
  static constexpr int kMaskBytes = 64, kQuarters = 4, kColumns = 2;
  static __m128i expand(std::uint8_t mask, const std::byte* values) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    return _mm_shuffle_epi8(
        packed, _mm_load_si128(reinterpret_cast<const __m128i*>(kExpand16.shuffle[mask])));
  }
  static constexpr int kValueBytes = 2;
  static __m256 activation(const float* x) {
    double pair;
    __builtin_memcpy(&pair, x, sizeof pair);
    return _mm256_castpd_ps(_mm256_set1_pd(pair));
  }
  /// Rows 4q…4q+3 from pairs of columns.
  static void store(__m256 sum, float* rows) {
    const __m128 low = _mm256_castps256_ps128(sum);
    const __m128 high = _mm256_extractf128_ps(sum, 1);
    _mm_storeu_ps(rows, _mm_hadd_ps(low, high));
  }
  static constexpr int kRows = 4;  ///< Rows a quarter holds.
};
struct Bf16 : Words {
  static __m256 weights(std::uint8_t mask, const std::byte* values) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(expand(mask, values)), 16));
  }
};
struct F16 : Words {
  static __m256 weights(std::uint8_t mask, const std::byte* values) {
    return _mm256_cvtph_ps(expand(mask, values));
  }
};
struct F32 {
  static constexpr int kMaskBytes = 32, kQuarters = 2, kColumns = 1, kValueBytes = 4, kRows = 8;
  static __m256 weights(std::uint8_t mask, const std::byte* values) {
    const __m256 packed = _mm256_loadu_ps(reinterpret_cast<const float*>(values));
    const __m256i source =
        _mm256_load_si256(reinterpret_cast<const __m256i*>(kExpand32.source[mask]));
    const __m256 present = _mm256_load_ps(reinterpret_cast<const float*>(kExpand32.present[mask]));
    return _mm256_and_ps(_mm256_permutevar8x32_ps(packed, source), present);
  }
  static __m256 activation(const float* x) { return _mm256_set1_ps(*x); }
  static void store(__m256 sum, float* rows) { _mm256_storeu_ps(rows, sum); }
};

/// N tokens of one row block.
template <class W, int N>
void block_by_tokens(const BitmapJob& job, std::int64_t block, std::int64_t token) {
  __m256 sum[N][W::kQuarters];
  for (auto& token_sums : sum)
    for (__m256& s : token_sums) s = _mm256_setzero_ps();
  const std::byte* tile = job.stream + job.offsets[block];
  const float* x = job.x + token * W::kColumns;
  for (std::int64_t i = 0; i < job.tiles; ++i) {
    const auto* masks = reinterpret_cast<const std::uint8_t*>(tile);
    const std::byte* values = tile + W::kMaskBytes;
    for (int group = 0; group < 16; ++group, x += job.tokens * W::kColumns) {
      _mm_prefetch(reinterpret_cast<const char*>(values + kPrefetchBytes), _MM_HINT_T0);
      for (int q = 0; q < W::kQuarters; ++q) {
        const std::uint8_t mask = *masks++;
        const __m256 w = W::weights(mask, values);
        values += W::kValueBytes * _mm_popcnt_u32(mask);
        for (int t = 0; t < N; ++t)
          sum[t][q] = _mm256_fmadd_ps(w, W::activation(x + t * W::kColumns), sum[t][q]);
      }
    }
    tile = values;
  }
  for (int t = 0; t < N; ++t)
    for (int q = 0; q < W::kQuarters; ++q)
      W::store(sum[t][q], job.sums + (block * job.tokens + token + t) * 16 + q * W::kRows);
}

template <class W>
void run(const BitmapJob& job) {
  for (std::int64_t block = 0; block < job.blocks; ++block) {
    std::int64_t t = 0;
    for (; t + 2 <= job.tokens; t += 2) block_by_tokens<W, 2>(job, block, t);
    if (t < job.tokens) block_by_tokens<W, 1>(job, block, t);
  }
}

}  // namespace

void bitmap_bf16_avx2(const BitmapJob& job) {
  run<Bf16>(job);
}
void bitmap_f16_avx2(const BitmapJob& job) {
  run<F16>(job);
}
void bitmap_f32_avx2(const BitmapJob& job) {
  run<F32>(job);
}

}  // namespace rarefy
