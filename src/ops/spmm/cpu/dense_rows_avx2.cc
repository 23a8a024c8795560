// Dense rows with AVX2, FMA and F16C: four rows at once, so that memory sees four streams a thread.
#include <immintrin.h>

#include "ops/spmm/cpu/dense_rows_inner.h"

namespace rarefy {
namespace {

constexpr std::int64_t kPrefetchBytes = 1024;

struct Bf16Weights {
  static constexpr int kBytes = 2;
  static __m256 load(const std::byte* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
};

struct F16Weights {
  static constexpr int kBytes = 2;
  static __m256 load(const std::byte* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};

struct F32Weights {
  static constexpr int kBytes = 4;
  static __m256 load(const std::byte* p) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  }
};

float add_lanes(__m256 v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

template <class W, int R, int N>
void rows_by_tokens(const std::byte* weights, std::size_t row_bytes, std::int64_t cols,
                    const float* x, std::int64_t x_stride, float* sums, std::int64_t sum_stride) {
  __m256 sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < N; ++t) sum[r][t] = _mm256_setzero_ps();
  const auto step = [&](std::int64_t k, auto load) {
    __m256 activation[N];
    for (int t = 0; t < N; ++t) activation[t] = _mm256_loadu_ps(x + t * x_stride + k);
    for (int r = 0; r < R; ++r) {
      const __m256 weight = load(weights + r * row_bytes + k * W::kBytes);
      for (int t = 0; t < N; ++t) sum[r][t] = _mm256_fmadd_ps(weight, activation[t], sum[r][t]);
    }
  };
  constexpr std::int64_t kLine = 64 / W::kBytes;
  std::int64_t k = 0;
  for (; k + kLine <= cols; k += kLine) {
    for (int r = 0; r < R; ++r) {
      _mm_prefetch(
          reinterpret_cast<const char*>(weights + r * row_bytes + k * W::kBytes + kPrefetchBytes),
          _MM_HINT_T0);
    }
    for (std::int64_t i = 0; i < kLine; i += 8)
      step(k + i, [](const std::byte* p) { return W::load(p); });
  }
  for (; k + 8 <= cols; k += 8) step(k, [](const std::byte* p) { return W::load(p); });
  if (k < cols) {
    const auto left = static_cast<std::size_t>(cols - k) * W::kBytes;
    step(k, [left](const std::byte* p) {
      alignas(32) std::byte padded[32] = {};
      __builtin_memcpy(padded, p, left);
      return W::load(padded);
    });
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < N; ++t) sums[t * sum_stride + r] = add_lanes(sum[r][t]);
}

template <class W, int R, int N>
void all_rows(const DenseRowsJob& job, std::int64_t token) {
  const float* x = job.x + token * job.x_stride;
  float* sums = job.sums + token * job.sum_stride;
  std::int64_t r = 0;
  for (; r + R <= job.rows; r += R) {
    rows_by_tokens<W, R, N>(job.weights + r * job.row_bytes, job.row_bytes, job.cols, x,
                            job.x_stride, sums + r, job.sum_stride);
  }
  for (; r < job.rows; ++r) {
    rows_by_tokens<W, 1, N>(job.weights + r * job.row_bytes, job.row_bytes, job.cols, x,
                            job.x_stride, sums + r, job.sum_stride);
  }
}

template <class W>
void run(const DenseRowsJob& job) {
  std::int64_t t = 0;
  for (; t + 2 <= job.tokens; t += 2) all_rows<W, 4, 2>(job, t);
  if (t < job.tokens) all_rows<W, 4, 1>(job, t);
}

}  // namespace

void dense_rows_bf16_avx2(const DenseRowsJob& job) {
  run<Bf16Weights>(job);
}
void dense_rows_f16_avx2(const DenseRowsJob& job) {
  run<F16Weights>(job);
}
void dense_rows_f32_avx2(const DenseRowsJob& job) {
  run<F32Weights>(job);
}

}  // namespace rarefy
