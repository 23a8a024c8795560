// The end of every SpMM kernel: from f32 sums to stored results, c = act(sum + bias) + residual.
// ACTIVATION: 0 none, 1 relu, 2 gelu (erf), 3 silu. HAS_BIAS, HAS_RESIDUAL: 0 or 1.
#pragma once

#include "cuda/number.cuh"

__device__ __forceinline__ float activate(float x) {
  if constexpr (ACTIVATION == 1) return x < 0.0f ? 0.0f : x;  // NaN stays NaN.
  if constexpr (ACTIVATION == 2) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
  if constexpr (ACTIVATION == 3) return x / (1.0f + expf(-x));
  return x;
}

/// Stores one sum. `at` is the element's place in c, `residual_at` in the residual.
template <class Y>
__device__ __forceinline__ void store_result(float sum, Y* c, i64 at, const float* bias, i64 row,
                                             const Y* residual, i64 residual_at) {
  if constexpr (HAS_BIAS) sum += bias[row];
  sum = activate(sum);
  if constexpr (HAS_RESIDUAL) sum += to_float(residual[residual_at]);
  c[at] = from_float<Y>(sum);
}
