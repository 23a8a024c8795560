// Attention of single tokens, one of each sequence, split over the positions that they see.
//
// attend_decode: block (kv heads × query groups, split, row) reads its share of the keys and values
// once for GROUP query heads that share them, and leaves sums that are not normalised yet, with the
// largest score and the sum of weights. attend_combine: block (head, row) adds the splits up, in
// their order: the same bits every time. The shares follow from the position alone, which lies in
// device memory, so that a recorded graph serves every token.
//
// HEADS, KV_HEADS, HEAD_DIM (even), GROUP (divides HEADS / KV_HEADS); X: dtype of q and
// out; KV: dtype of the cache.
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"
#include "ops/attention/cuda/place.cuh"

constexpr int kWarps = 4;
constexpr int kTile = 64;  // Positions whose scores lie in shared memory at once.
constexpr int kWidest = 16 / sizeof(KV);
constexpr int kVector = HEAD_DIM % kWidest == 0 ? kWidest : HEAD_DIM % 4 == 0 ? 4 : 2;
constexpr int kPieces = HEAD_DIM / kVector;  // Of a key: 16 bytes where its width allows.

constexpr int power_of_two_at_least(int n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}
constexpr int kLanes = kPieces >= 32 ? 32 : power_of_two_at_least(kPieces);  // For one key.
constexpr int kTurns = (kPieces + kLanes - 1) / kLanes;
constexpr int kRowsAWarp = 32 / kLanes;
constexpr int kRowsAtOnce = kWarps * kRowsAWarp;
constexpr float kLog2E = 1.4426950408889634F;
constexpr int kRatio = HEADS / KV_HEADS;

static_assert(HEAD_DIM % 2 == 0 && kRatio % GROUP == 0);

__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// This lane's part of a row: piece l + kLanes·turn, zeros past the end of the row.
__device__ __forceinline__ void load_row(const KV* row, int lane, float (&to)[kTurns][kVector]) {
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const int piece = lane + turn * kLanes;
    if (kPieces % kLanes == 0 || piece < kPieces) {
      const auto pack = load_once(reinterpret_cast<const Pack<KV, kVector>*>(row) + piece);
#pragma unroll
      for (int i = 0; i < kVector; ++i) to[turn][i] = to_float(pack.value[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) to[turn][i] = 0;
    }
  }
}

/// q: rows of `q_stride` elements, one a token. sums: [row][head][split][HEAD_DIM]; stats: (largest
/// score, sum of weights) of [row][head][split], scores in units of log 2.
extern "C" __global__ void __launch_bounds__(kWarps * 32)
    attend_decode(const X* q, i64 q_stride, const Place* places, int layer, int window, float scale,
                  float* sums, float2* stats) {
  __shared__ float scores[GROUP][kTile];
  __shared__ float rescale[GROUP];
  __shared__ float gathered[kWarps][HEAD_DIM];
  constexpr int kGroupsAHead = kRatio / GROUP;
  const int kv_head = blockIdx.x / kGroupsAHead;
  const int first_head = kv_head * kRatio + blockIdx.x % kGroupsAHead * GROUP;
  const int splits = gridDim.y;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int row_in_warp = lane / kLanes;
  const int lane_in_row = lane % kLanes;

  // Its share of positions.
  const Place place = places[blockIdx.z];
  const int length = place.position + 1;
  const int seen_from = window > 0 && length > window ? length - window : 0;
  const int share = (length - seen_from + splits - 1) / splits;
  const int begin = seen_from + static_cast<int>(blockIdx.y) * share;
  const int end = begin + share < length ? begin + share : length;
  const auto out_of = [&](int g) {
    return (static_cast<i64>(blockIdx.z) * HEADS + first_head + g) * splits + blockIdx.y;
  };
  if (begin >= end) {
    if (threadIdx.x < GROUP)
      stats[out_of(threadIdx.x)] = make_float2(__int_as_float(0xFF800000), 0.0F);
    return;
  }
  constexpr int kWidth = KV_HEADS * HEAD_DIM;
  const KV* keys = layer_keys<KV>(place, layer, kWidth) + kv_head * HEAD_DIM;
  const KV* values = keys + static_cast<i64>(place.capacity) * kWidth;

  float query[GROUP][kTurns][kVector];
#pragma unroll
  for (int g = 0; g < GROUP; ++g) {
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const int at = (lane_in_row + turn * kLanes) * kVector + i;
        query[g][turn][i] =
            at < HEAD_DIM ? to_float(q[blockIdx.z * q_stride + (first_head + g) * HEAD_DIM + at]) *
                                (scale * kLog2E)
                          : 0.0F;
      }
    }
  }
  float sum[GROUP][kTurns][kVector] = {};
  constexpr int kHeadsAWarp = (GROUP + kWarps - 1) / kWarps;
  float largest[kHeadsAWarp];
  float weight[kHeadsAWarp];
#pragma unroll
  for (int i = 0; i < kHeadsAWarp; ++i) {
    largest[i] = __int_as_float(0xFF800000);
    weight[i] = 0;
  }

  for (int tile = begin; tile < end; tile += kTile) {
    // Scores. Rows past the end are read as the last and masked.
#pragma unroll 4
    for (int r = 0; r < kTile; r += kRowsAtOnce) {
      if (tile + r >= end) break;
      const int at = r + warp * kRowsAWarp + row_in_warp;
      const int position = tile + at < end ? tile + at : end - 1;
      float key[kTurns][kVector];
      load_row(keys + static_cast<i64>(position) * kWidth, lane_in_row, key);
#pragma unroll
      for (int g = 0; g < GROUP; ++g) {
        float dot = 0;
#pragma unroll
        for (int turn = 0; turn < kTurns; ++turn) {
#pragma unroll
          for (int i = 0; i < kVector; ++i) dot += query[g][turn][i] * key[turn][i];
        }
#pragma unroll
        for (int step = kLanes / 2; step > 0; step /= 2) dot += __shfl_xor_sync(~0U, dot, step);
        if (lane_in_row == 0) scores[g][at] = dot;
      }
    }
    __syncthreads();

    // Weights of this tile, relative to the largest score so far.
#pragma unroll
    for (int i = 0; i < kHeadsAWarp; ++i) {
      const int g = warp + i * kWarps;
      if (g >= GROUP) break;
      float most = largest[i];
      for (int at = lane; at < kTile && tile + at < end; at += 32)
        most = fmaxf(most, scores[g][at]);
#pragma unroll
      for (int step = 16; step > 0; step /= 2)
        most = fmaxf(most, __shfl_xor_sync(~0U, most, step));
      float total = 0;
      for (int at = lane; at < kTile; at += 32) {
        const float p = tile + at < end ? power_of_two(scores[g][at] - most) : 0.0F;
        scores[g][at] = p;
        total += p;
      }
#pragma unroll
      for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0U, total, step);
      const float shrink = power_of_two(largest[i] - most);
      weight[i] = weight[i] * shrink + total;
      largest[i] = most;
      if (lane == 0) rescale[g] = shrink;
    }
    __syncthreads();

    // Values.
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
      const float shrink = rescale[g];
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum[g][turn][i] *= shrink;
      }
    }
#pragma unroll 4
    for (int r = 0; r < kTile; r += kRowsAtOnce) {
      if (tile + r >= end) break;
      const int at = r + warp * kRowsAWarp + row_in_warp;
      const int position = tile + at < end ? tile + at : end - 1;
      float value[kTurns][kVector];
      load_row(values + static_cast<i64>(position) * kWidth, lane_in_row, value);
#pragma unroll
      for (int g = 0; g < GROUP; ++g) {
        const float p = scores[g][at];
#pragma unroll
        for (int turn = 0; turn < kTurns; ++turn) {
#pragma unroll
          for (int i = 0; i < kVector; ++i) sum[g][turn][i] += p * value[turn][i];
        }
      }
    }
    __syncthreads();
  }

  // Rows of a warp, then warps.
#pragma unroll
  for (int g = 0; g < GROUP; ++g) {
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
#pragma unroll
        for (int step = kLanes; step < 32; step *= 2)
          sum[g][turn][i] += __shfl_xor_sync(~0U, sum[g][turn][i], step);
        const int at = (lane_in_row + turn * kLanes) * kVector + i;
        if (row_in_warp == 0 && at < HEAD_DIM) gathered[warp][at] = sum[g][turn][i];
      }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < HEAD_DIM; at += kWarps * 32) {
      float total = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) total += gathered[w][at];
      sums[out_of(g) * HEAD_DIM + at] = total;
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kHeadsAWarp; ++i) {
    const int g = warp + i * kWarps;
    if (g < GROUP && lane == 0) stats[out_of(g)] = make_float2(largest[i], weight[i]);
  }
}

/// out: [row][head][HEAD_DIM]; zeros for a row that only fills the batch.
extern "C" __global__ void __launch_bounds__(HEAD_DIM)
    attend_combine(const float* sums, const float2* stats, int splits, const Place* places, X* out) {
  const i64 head = static_cast<i64>(blockIdx.y) * HEADS + blockIdx.x;
  const int at = threadIdx.x;
  float result = 0;
  if (places[blockIdx.y].position >= 0) {
    float most = __int_as_float(0xFF800000);
    for (int s = 0; s < splits; ++s) most = fmaxf(most, stats[head * splits + s].x);
    float total = 0;
    for (int s = 0; s < splits; ++s) {
      const float2 part = stats[head * splits + s];
      if (part.y == 0) continue;  // Saw nothing, and wrote no sums.
      const float share = power_of_two(part.x - most);
      total += part.y * share;
      result += sums[(head * splits + s) * HEAD_DIM + at] * share;
    }
    result /= total;
  }
  out[head * HEAD_DIM + at] = from_float<X>(result);
}
