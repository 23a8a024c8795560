// Dense rows over the Vec of ops/simd/vec_<isa>.h, which must be included first; everything is
// local to the file that does. One stream of reads reaches 25-28 GB/s on a two-core Sapphire
// Rapids, four to eight a thread 40-44: so four rows are walked at once (eight gain nothing more).
#pragma once

#include <cstring>

#include "ops/spmm/cpu/dense_rows_inner.h"
#include "ops/spmm/cpu/vec_weights.h"

namespace rarefy {
namespace {

using simd::kLanes;
using simd::Vec;

/// Software prefetch runs this far ahead in each row.
constexpr std::int64_t kPrefetchBytes = 128 * kLanes;

/// R rows by N tokens: R·N accumulators.
template <class W, int R, int N>
void rows_by_tokens(const std::byte* weights, std::size_t row_bytes, std::int64_t cols,
                    const float* x, std::int64_t x_stride, float* sums, std::int64_t sum_stride) {
  Vec sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < N; ++t) sum[r][t] = simd::broadcast(0);

  const auto step = [&](std::int64_t k, auto load) {
    Vec activation[N];
    for (int t = 0; t < N; ++t) activation[t] = simd::load(x + t * x_stride + k);
    for (int r = 0; r < R; ++r) {
      const Vec weight = load(weights + r * row_bytes + k * W::kBytes);
      for (int t = 0; t < N; ++t) sum[r][t] = simd::fma(weight, activation[t], sum[r][t]);
    }
  };
  constexpr std::int64_t kLine = 64 / W::kBytes;  // Columns a cache line holds.
  std::int64_t k = 0;
  for (; k + kLine <= cols; k += kLine) {
    for (int r = 0; r < R; ++r)
      __builtin_prefetch(weights + r * row_bytes + k * W::kBytes + kPrefetchBytes);
    for (std::int64_t i = 0; i < kLine; i += kLanes) step(k + i, W::load);
  }
  for (; k + kLanes <= cols; k += kLanes) step(k, W::load);
  if (k < cols) {
    const auto left = static_cast<std::size_t>(cols - k) * W::kBytes;
    step(k, [left](const std::byte* p) {
      alignas(64) std::byte padded[kLanes * W::kBytes] = {};
      std::memcpy(padded, p, left);
      return W::load(padded);
    });
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < N; ++t) sums[t * sum_stride + r] = simd::sum(sum[r][t]);
}

template <class W, int N>
void all_rows(const DenseRowsJob& job, std::int64_t token) {
  constexpr int kRows = simd::kTileRows;
  const float* x = job.x + token * job.x_stride;
  float* sums = job.sums + token * job.sum_stride;
  std::int64_t r = 0;
  for (; r + kRows <= job.rows; r += kRows) {
    rows_by_tokens<W, kRows, N>(job.weights + r * job.row_bytes, job.row_bytes, job.cols, x,
                                job.x_stride, sums + r, job.sum_stride);
  }
  for (; r < job.rows; ++r) {
    rows_by_tokens<W, 1, N>(job.weights + r * job.row_bytes, job.row_bytes, job.cols, x,
                            job.x_stride, sums + r, job.sum_stride);
  }
}

/// As many tokens as there are accumulators for take one pass over the weights; each pass is the
/// same for any row range, so the result does not depend on how rows are cut.
template <class W>
void run_dense_rows(const DenseRowsJob& job) {
  constexpr int kMost = simd::kTileVectors;
  std::int64_t t = 0;
  for (; t + kMost <= job.tokens; t += kMost) all_rows<W, kMost>(job, t);
  for (; t + 2 <= job.tokens; t += 2) all_rows<W, 2>(job, t);
  if (t < job.tokens) all_rows<W, 1>(job, t);
}

}  // namespace
}  // namespace rarefy
