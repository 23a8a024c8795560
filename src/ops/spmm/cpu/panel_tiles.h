// Panel times activations in tiles of 4 rows × kTileTokens tokens, over the vectors of
// ops/simd/vec_<isa>.h, which must be included first. Both operands lie along K, so that nothing is
// transposed: 4 + kTileTokens loads feed 4·kTileTokens multiply-adds, and lanes are added up once a
// tile. Everything is local to the including file.
#pragma once

#include "ops/spmm/cpu/panel_inner.h"

namespace rarefy {
namespace {

inline constexpr int kRows = 4;
/// 24 accumulators of 32 registers, or 8 of 16.
inline constexpr int kTileTokens = simd::kLanes == 16 ? 6 : 2;

template <int T>
void tile(const PanelJob& job, std::int64_t row, std::int64_t token) {
  const float* w = job.rows + row * job.row_stride;
  const float* x = job.x + token * job.x_stride;
  simd::Vec sum[kRows][T];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) sum[r][t] = simd::broadcast(0.0F);
  }
  for (std::int64_t k = 0; k < job.columns; k += simd::kLanes) {
    simd::Vec weight[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) weight[r] = simd::load(w + r * job.row_stride + k);
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) {
      const simd::Vec activation = simd::load(x + t * job.x_stride + k);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sum[r][t] = simd::fma(weight[r], activation, sum[r][t]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float* to = job.sums + (row + r) * job.sum_stride + token;
    for (int t = 0; t < T; ++t) to[t] = simd::sum(sum[r][t]) + (job.add ? to[t] : 0.0F);
  }
}

inline void tokens_of_four_rows(const PanelJob& job, std::int64_t row) {
  std::int64_t t = 0;
  for (; t + kTileTokens <= job.tokens; t += kTileTokens) tile<kTileTokens>(job, row, t);
  if constexpr (kTileTokens > 2) {
    for (; t + 2 <= job.tokens; t += 2) tile<2>(job, row, t);
  }
  for (; t < job.tokens; ++t) tile<1>(job, row, t);
}

inline void multiply(const PanelJob& job) {
  for (std::int64_t row = 0; row < job.row_count; row += kRows) tokens_of_four_rows(job, row);
}

inline void widen(const void* from, DType dtype, std::int64_t count, float* to) {
  if (dtype == DType::kF32) {
    const auto* values = static_cast<const float*>(from);
    for (std::int64_t i = 0; i < count; i += simd::kLanes)
      simd::store(to + i, simd::load(values + i));
    return;
  }
  const auto* values = static_cast<const std::uint16_t*>(from);
  for (std::int64_t i = 0; i < count; i += simd::kLanes) {
    simd::store(to + i,
                dtype == DType::kF16 ? simd::load_f16(values + i) : simd::load_bf16(values + i));
  }
}

}  // namespace
}  // namespace rarefy
