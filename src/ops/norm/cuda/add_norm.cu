// hidden += delta + bias;  normed = hidden / sqrt(mean(hidden²) + eps) ⊙ weight.
//
// The residual stream stays in f32; what a layer adds to it comes in X, what the next one reads
// leaves in X. One block a token, whose row stays in registers between the two.
// WIDTH (a multiple of 4), THREADS (whole warps); X: dtype of delta and normed.
#include "cuda/dependent.cuh"
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"

constexpr int kPieces = (WIDTH / 4 + THREADS - 1) / THREADS;
constexpr int kWarps = THREADS / 32;

/// The same sum for every thread, in the same order every time.
__device__ __forceinline__ float block_sum(float value) {
  __shared__ float parts[kWarps];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0U, value, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) sum += parts[i];
  return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add_norm(float* hidden, const X* delta, const float* bias, const float* weight, float eps,
             X* normed) {
  const i64 row = static_cast<i64>(blockIdx.x) * WIDTH;
  float w[kPieces][4];
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int at = (p * THREADS + threadIdx.x) * 4;
    if (at >= WIDTH) break;
    *reinterpret_cast<float4*>(w[p]) = *reinterpret_cast<const float4*>(weight + at);
  }
  let_next_start();
  wait_for_previous();
  float x[kPieces][4];
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int at = (p * THREADS + threadIdx.x) * 4;
    if (at >= WIDTH) break;
    *reinterpret_cast<float4*>(x[p]) = *reinterpret_cast<const float4*>(hidden + row + at);
    if (delta != nullptr) {
      const auto more = *reinterpret_cast<const Pack<X, 4>*>(delta + row + at);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        x[p][i] += to_float(more.value[i]) + (bias != nullptr ? bias[at + i] : 0.0F);
      *reinterpret_cast<float4*>(hidden + row + at) = *reinterpret_cast<const float4*>(x[p]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) squares += x[p][i] * x[p][i];
  }
  const float scale = rsqrtf(block_sum(squares) / WIDTH + eps);
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int at = (p * THREADS + threadIdx.x) * 4;
    if (at >= WIDTH) break;
    Pack<X, 4> out;
#pragma unroll
    for (int i = 0; i < 4; ++i) out.value[i] = from_float<X>(x[p][i] * scale * w[p][i]);
    *reinterpret_cast<Pack<X, 4>*>(normed + row + at) = out;
  }
}
