// From sums to results: c = act(sum + bias) + residual, two neighbouring features at a time.
#pragma once

#include "ops/spmm/cuda/epilogue.cuh"

using X = X_TYPE;

/// Where results go, and what enters them.
struct Results {
  X* c;
  i64 c_stride;
  const float* bias;
  const X* residual;
  i64 residual_stride;

  /// Those of one token; `feature` is even, c and its stride are multiples of 4 bytes.
  __device__ __forceinline__ void store(i64 token, int feature, float first, float second) const {
    struct alignas(4) Two {
      X value[2];
    } two;
    const i64 at = token * residual_stride + feature;
    store_result(first, two.value, 0, bias, feature, residual, at);
    store_result(second, two.value, 1, bias, feature + 1, residual, at + 1);
    *reinterpret_cast<Two*>(c + token * c_stride + feature) = two;
  }
};
