// The inner loops of row-major dense weights, one function an instruction set and weight dtype.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy {

/// sums[t · sum_stride + r] = Σ_k rows[r][k] · x[t][k] for `rows` rows and `tokens` tokens.
struct DenseRowsJob {
  const std::byte* weights;  ///< First row.
  std::size_t row_bytes;     ///< From one row to the next.
  std::int64_t rows, cols;
  const float* x;  ///< Token t at x + t · x_stride, zero from `cols` to the next 16.
  std::int64_t x_stride;
  std::int64_t tokens;
  float* sums;
  std::int64_t sum_stride;
};

using DenseRowsInner = void(const DenseRowsJob& job);

DenseRowsInner dense_rows_bf16_portable, dense_rows_f16_portable, dense_rows_f32_portable;
DenseRowsInner dense_rows_bf16_avx2, dense_rows_f16_avx2, dense_rows_f32_avx2;
DenseRowsInner dense_rows_bf16_avx512, dense_rows_f16_avx512, dense_rows_f32_avx512;

}  // namespace rarefy
