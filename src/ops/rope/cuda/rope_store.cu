// What stands between the q, k, v projections and attention: bias, Qwen3's norm of each head, the
// rotation of q and k, and storing k and v in the cache. One warp a head of a token.
//
// HEADS, KV_HEADS, HEAD_DIM, WARPS; X: dtype of qkv; KV: dtype of the cache; HEAD_NORM: 1 when
// heads of q and k are normalised.
#include "cuda/dependent.cuh"
#include "ops/attention/cuda/place.cuh"
#include "ops/rope/cuda/head.cuh"

/// qkv: one row a token, HEADS heads of q, KV_HEADS of k, KV_HEADS of v.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
    rope_store(X* qkv, const float* bias, const float* q_norm, const float* k_norm, float eps,
               const float* cosine, const float* sine, const Place* places, int layer) {
  wait_for_previous();
  let_next_start();
  const int head = blockIdx.x * WARPS + threadIdx.x / 32;
  const Place place = places[blockIdx.y];
  if (head >= HEADS + 2 * KV_HEADS || place.position < 0) return;
  X* x = qkv + (static_cast<i64>(blockIdx.y) * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM;
  Head values = load(x, bias == nullptr ? nullptr : bias + head * HEAD_DIM);
  const bool is_query = head < HEADS;
  const bool is_value = head >= HEADS + KV_HEADS;
  if (!is_value) {
    if (HEAD_NORM) normalise(values, is_query ? q_norm : k_norm, eps);
    const i64 angles = static_cast<i64>(place.position) * kHalf;
    rotate(values, cosine + angles, sine + angles);
  }
  if (is_query) return store(values, x);
  constexpr int kWidth = KV_HEADS * HEAD_DIM;
  KV* rows = layer_keys<KV>(place, layer, kWidth) +
             (is_value ? static_cast<i64>(place.capacity) * kWidth : 0);
  const int kv_head = (head - HEADS) % KV_HEADS;
  store(values, rows + static_cast<i64>(place.position) * kWidth + kv_head * HEAD_DIM);
}
