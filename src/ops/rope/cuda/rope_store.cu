// What stands between the q, k, v projections and attention: bias, Qwen3's norm of each head, the
// rotation of q and k, and storing k and v in the cache. One warp a head of a token.
//
// HEADS, KV_HEADS, HEAD_DIM, WARPS; X: dtype of qkv; KV: dtype of the cache; HEAD_NORM: 1 when
// heads of q and k are normalised.
#include "cuda/number.cuh"
#include "ops/attention/cuda/place.cuh"

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
  each_pair([&](int i, int) {
    squares += head.low[i] * head.low[i] + head.high[i] * head.high[i];
  });
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

/// qkv: one row a token, HEADS heads of q, KV_HEADS of k, KV_HEADS of v.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
    rope_store(X* qkv, const float* bias, const float* q_norm, const float* k_norm, float eps,
               const float* cosine, const float* sine, const Place* places, int layer) {
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
