// Dense rows with AVX-512. One stream of reads reaches 25-28 GB/s on a two-core Sapphire Rapids,
// four to eight a thread 40-44: so four rows are walked at once (eight gain nothing more).
#include <immintrin.h>

#include "ops/spmm/cpu/dense_rows_inner.h"

namespace rarefy {
namespace {

/// Software prefetch runs this far ahead in each row.
constexpr std::int64_t kPrefetchBytes = 2048;

struct Bf16Weights {
  static constexpr int kBytes = 2;
  static __m512 load(const std::byte* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 load(const std::byte* p, __mmask16 live) {
    return widen(_mm256_maskz_loadu_epi16(live, p));
  }
  static __m512 widen(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
};

struct F16Weights {
  static constexpr int kBytes = 2;
  static __m512 load(const std::byte* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 load(const std::byte* p, __mmask16 live) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(live, p));
  }
};

struct F32Weights {
  static constexpr int kBytes = 4;
  static __m512 load(const std::byte* p) { return _mm512_loadu_ps(p); }
  static __m512 load(const std::byte* p, __mmask16 live) { return _mm512_maskz_loadu_ps(live, p); }
};

/// R rows by N tokens: R·N accumulators of 16 columns each.
template <class W, int R, int N>
void rows_by_tokens(const std::byte* weights, std::size_t row_bytes, std::int64_t cols,
                    const float* x, std::int64_t x_stride, float* sums, std::int64_t sum_stride) {
  __m512 sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < N; ++t) sum[r][t] = _mm512_setzero_ps();

  const auto step = [&](std::int64_t k, auto load) {
    __m512 activation[N];
    for (int t = 0; t < N; ++t) activation[t] = _mm512_loadu_ps(x + t * x_stride + k);
    for (int r = 0; r < R; ++r) {
      const __m512 weight = load(weights + r * row_bytes + k * W::kBytes);
      for (int t = 0; t < N; ++t) sum[r][t] = _mm512_fmadd_ps(weight, activation[t], sum[r][t]);
    }
  };
  constexpr std::int64_t kLine = 64 / W::kBytes;  // Columns a cache line holds.
  std::int64_t k = 0;
  for (; k + kLine <= cols; k += kLine) {
    for (int r = 0; r < R; ++r) {
      _mm_prefetch(
          reinterpret_cast<const char*>(weights + r * row_bytes + k * W::kBytes + kPrefetchBytes),
          _MM_HINT_T0);
    }
    for (std::int64_t i = 0; i < kLine; i += 16)
      step(k + i, [](const std::byte* p) { return W::load(p); });
  }
  for (; k + 16 <= cols; k += 16) step(k, [](const std::byte* p) { return W::load(p); });
  if (k < cols) {
    const auto live = static_cast<__mmask16>((1U << (cols - k)) - 1);
    step(k, [live](const std::byte* p) { return W::load(p, live); });
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < N; ++t) sums[t * sum_stride + r] = _mm512_reduce_add_ps(sum[r][t]);
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

/// Up to four tokens take one pass over the weights; each pass is the same for any row range, so
/// the result does not depend on how rows are cut.
template <class W>
void run(const DenseRowsJob& job) {
  std::int64_t t = 0;
  for (; t + 4 <= job.tokens; t += 4) all_rows<W, 4, 4>(job, t);
  if (t + 2 <= job.tokens) {
    all_rows<W, 4, 2>(job, t);
    t += 2;
  }
  if (t < job.tokens) all_rows<W, 4, 1>(job, t);
}

}  // namespace

void dense_rows_bf16_avx512(const DenseRowsJob& job) {
  run<Bf16Weights>(job);
}
void dense_rows_f16_avx512(const DenseRowsJob& job) {
  run<F16Weights>(job);
}
void dense_rows_f32_avx512(const DenseRowsJob& job) {
  run<F32Weights>(job);
}

}  // namespace rarefy
