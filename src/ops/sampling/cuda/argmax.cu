// The likeliest token of each row of logits: the lowest id among equals, -1 where the largest is
// not finite or any is NaN. One block a row.
//
// THREADS (whole warps).
#include "cuda/number.cuh"

constexpr int kWarps = THREADS / 32;

struct Best {
  float logit;
  int id;
};

/// NaN goes before everything, so that it is seen.
__device__ __forceinline__ Best better(Best a, Best b) {
  if (isnan(a.logit)) return a;
  if (isnan(b.logit) || b.logit > a.logit || (b.logit == a.logit && b.id < a.id)) return b;
  return a;
}

__device__ __forceinline__ Best warp_best(Best best) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    best =
        better(best, {__shfl_xor_sync(~0U, best.logit, step), __shfl_xor_sync(~0U, best.id, step)});
  }
  return best;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    argmax(const float* logits, int count, int* ids) {
  __shared__ float logit_of[kWarps];
  __shared__ int id_of[kWarps];
  const float* row = logits + static_cast<i64>(blockIdx.x) * count;
  const float infinity = __int_as_float(0x7F800000);
  Best best{-infinity, count};
  for (int i = threadIdx.x; i < count; i += THREADS) best = better(best, {row[i], i});
  best = warp_best(best);
  const int lane = threadIdx.x % 32;
  if (lane == 0) {
    logit_of[threadIdx.x / 32] = best.logit;
    id_of[threadIdx.x / 32] = best.id;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = lane < kWarps ? Best{logit_of[lane], id_of[lane]} : Best{-infinity, count};
  best = warp_best(best);
  if (lane == 0) ids[blockIdx.x] = fabsf(best.logit) < infinity ? best.id : -1;
}
