// hidden[t] = table row of token t, as f32. One block a token.
//
// WIDTH, THREADS; X: dtype of the table.
#include "cuda/dependent.cuh"
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"
#include "ops/attention/cuda/place.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    embedding(const X* table, const Place* places, float* hidden) {
  let_next_start();
  wait_for_previous();
  const i64 row = blockIdx.x;
  const X* from = table + static_cast<i64>(places[row].token) * WIDTH;
  for (int at = threadIdx.x * 4; at < WIDTH; at += THREADS * 4) {
    const auto values = *reinterpret_cast<const Pack<X, 4>*>(from + at);
    *reinterpret_cast<float4*>(hidden + row * WIDTH + at) =
        make_float4(to_float(values.value[0]), to_float(values.value[1]), to_float(values.value[2]),
                    to_float(values.value[3]));
  }
}
