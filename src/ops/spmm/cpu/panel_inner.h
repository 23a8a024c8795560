// The inner loops of the panel kernels, one set an instruction set.
#pragma once

#include <cstdint>

#include "rarefy/dtype.h"

namespace rarefy {

/// sums[r · sum_stride + t] += Σ_k rows[r][k] · x[t][k], or = when `add` is false.
struct PanelJob {
  const float* rows;  ///< Row r at rows + r · row_stride; `row_count` of them, a multiple of 4.
  std::int64_t row_stride, row_count;
  const float* x;  ///< Token t at x + t · x_stride.
  std::int64_t x_stride, tokens;
  std::int64_t columns;  ///< A multiple of 16.
  float* sums;
  std::int64_t sum_stride;
  bool add;
};

struct PanelInners {
  void (*multiply)(const PanelJob& job);
  /// `count` values of f32, f16 or bf16 as f32; count a multiple of 16.
  void (*widen)(const void* from, DType dtype, std::int64_t count, float* to);
};

extern const PanelInners kPanelAvx512, kPanelAvx2, kPanelPortable;

}  // namespace rarefy
