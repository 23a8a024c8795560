// A head of q, k or v in the registers of a warp: bias, Qwen3's norm of each head, rotation.
//
// HEAD_DIM (even); X: dtype of qkv.
#pragma once

#include "cuda/number.cuh"

constexpr int kHalf = HEAD_DIM / 2;
constexpr int kPairs = (kHalf + 31) / 32;

/// A head in registers: lane l holds elements l + 32·i of either half.
struct Head {
  float low[kPairs], high[kPairs];
};

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0U, value, step);
  return value;
}

template <class F>
__device__ __forceinline__ void each_pair(F&& f) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int at = lane + 32 * i;
    if (at < kHalf) f(i, at);
  }
}

__device__ __forceinline__ Head load(const X* x, const float* bias) {
  Head head;
  each_pair([&](int i, int at) {
    head.low[i] = to_float(x[at]);
    head.high[i] = to_float(x[at + kHalf]);
    if (bias == nullptr) return;
    head.low[i] += bias[at];
    head.high[i] += bias[at + kHalf];
  });
  return head;
}

template <class T>
__device__ __forceinline__ void store(const Head& head, T* to) {
  each_pair([&](int i, int at) {
    to[at] = from_float<T>(head.low[i]);
    to[at + kHalf] = from_float<T>(head.high[i]);
  });
}

__device__ __forceinline__ void normalise(Head& head, const float* weight, float eps) {
  float squares = 0;
  each_pair(
      [&](int i, int) { squares += head.low[i] * head.low[i] + head.high[i] * head.high[i]; });
  const float scale = rsqrtf(warp_sum(squares) / HEAD_DIM + eps);
  each_pair([&](int i, int at) {
    head.low[i] *= scale * weight[at];
    head.high[i] *= scale * weight[at + kHalf];
  });
}

__device__ __forceinline__ void rotate(Head& head, const float* cosine, const float* sine) {
  each_pair([&](int i, int at) {
    const float low = head.low[i];
    const float high = head.high[i];
    head.low[i] = low * cosine[at] - high * sine[at];
    head.high[i] = high * cosine[at] + low * sine[at];
  });
}
