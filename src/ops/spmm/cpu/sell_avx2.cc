// Sliced ELL with AVX2: the 16 rows of a slice as two gathers of eight.
#include <immintrin.h>

#include "ops/spmm/cpu/sell_inner.h"

namespace rarefy {
namespace {

constexpr std::int64_t kPrefetchBytes = 1024;

struct Bf16 {
  static constexpr int kBytes = 2;
  static __m256 load(const std::byte* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
};
struct F16 {
  static constexpr int kBytes = 2;
  static __m256 load(const std::byte* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};
struct F32 {
  static constexpr int kBytes = 4;
  static __m256 load(const std::byte* p) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  }
};

template <int kGapBytes>
__m256i load_gaps(const std::byte* p) {
  if constexpr (kGapBytes == 1)
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  else
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

template <class W, int kGapBytes>
void run(const SellJob& job) {
  constexpr int kStep = 16 * (kGapBytes + W::kBytes);
  for (std::int64_t slice = 0; slice < job.slices; ++slice) {
    for (std::int64_t t = 0; t < job.tokens; ++t) {
      const float* x = job.x + t * job.x_stride;
      const std::byte* end = job.stream + job.offsets[slice + 1];
      __m256i column[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
      __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
      for (const std::byte* step = job.stream + job.offsets[slice]; step < end; step += kStep) {
        _mm_prefetch(reinterpret_cast<const char*>(step + kPrefetchBytes), _MM_HINT_T0);
        for (int h = 0; h < 2; ++h) {
          column[h] = _mm256_add_epi32(column[h], load_gaps<kGapBytes>(step + 8 * h * kGapBytes));
          const __m256 weights = W::load(step + 16 * kGapBytes + 8 * h * W::kBytes);
          sum[h] = _mm256_fmadd_ps(weights, _mm256_i32gather_ps(x, column[h], 4), sum[h]);
        }
      }
      float* out = job.sums + (slice * job.tokens + t) * 16;
      _mm256_storeu_ps(out, sum[0]);
      _mm256_storeu_ps(out + 8, sum[1]);
    }
  }
}

}  // namespace

SellTable sell_avx2 = {
    {run<Bf16, 1>, run<Bf16, 2>}, {run<F16, 1>, run<F16, 2>}, {run<F32, 1>, run<F32, 2>}};

}  // namespace rarefy
