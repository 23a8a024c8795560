// y = silu(gate + bias) ⊙ (up + bias): the rows of `both` are gate, then up, WIDTH each.
//
// WIDTH (a multiple of 4), THREADS; X: dtype of all.
#include "cuda/dependent.cuh"
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"

__device__ __forceinline__ float silu(float x) {
  return x / (1.0F + expf(-x));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    swiglu(const X* both, const float* bias, X* y) {
  let_next_start();
  wait_for_previous();
  const int at = (blockIdx.x * THREADS + threadIdx.x) * 4;
  if (at >= WIDTH) return;
  const i64 row = blockIdx.y;
  const auto gate = *reinterpret_cast<const Pack<X, 4>*>(both + row * 2 * WIDTH + at);
  const auto up = *reinterpret_cast<const Pack<X, 4>*>(both + row * 2 * WIDTH + WIDTH + at);
  Pack<X, 4> out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float g = to_float(gate.value[i]) + (bias != nullptr ? bias[at + i] : 0.0F);
    const float u = to_float(up.value[i]) + (bias != nullptr ? bias[WIDTH + at + i] : 0.0F);
    out.value[i] = from_float<X>(silu(g) * u);
  }
  *reinterpret_cast<Pack<X, 4>*>(y + row * WIDTH + at) = out;
}
