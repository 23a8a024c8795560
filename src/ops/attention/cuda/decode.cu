// Attention of single tokens, one of each sequence, split over the positions that they see.
//
// Block (kv heads × query groups, split, row) rotates the GROUP query heads that share its keys,
// reads its share of keys and values once for all of them, and leaves sums that are not normalised
// yet, with the largest score and the sum of weights. The block that holds the token's own position
// rotates and stores its key and value first. The block of a group that comes last adds the splits
// up, in their order: the same bits every time. Shares follow from the position alone, which lies
// in device memory, so that a recorded graph serves every token: short sequences leave most splits
// without work, and up to kAlone positions one block does it all (adding up costs 3 us).
//
// Where a token stands, and the keys and values before it, were there when the graph began: the
// first ones are brought to the L2 before the kernel ahead has ended.
//
// HEADS, KV_HEADS, HEAD_DIM (even), GROUP (divides HEADS / KV_HEADS), HEAD_NORM (1: heads of q and
// k are normalised), MOST_SPLITS (whole warps); X: dtype of qkv and out; KV: dtype of the cache.
#include "cuda/dependent.cuh"
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"
#include "ops/attention/cuda/place.cuh"
#include "ops/attention/cuda/softmax.cuh"
#include "ops/rope/cuda/head.cuh"

constexpr int kWarps = 8;
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
// Positions whose scores lie in shared memory at once.
constexpr int kTile = kRowsAtOnce > 128 ? kRowsAtOnce : 128;
constexpr int kSteps = kTile / kRowsAtOnce;
// Rows that a lane has on the way at once: as many as registers allow beside GROUP sums.
constexpr int kMostInFlight = (GROUP <= 2 ? 8 : 4) / kTurns;
constexpr int kInFlight = kSteps < kMostInFlight ? kSteps : kMostInFlight > 0 ? kMostInFlight : 1;
// Positions that one block sees alone, and the fewest that are worth a split.
constexpr int kAlone = GROUP <= 2 ? 2 * kTile : kTile, kLeastShare = kTile;
constexpr int kMostSplits = MOST_SPLITS;
// Of a multiprocessor: as many as registers allow beside the sums and the rows on their way.
constexpr int kSums = GROUP * kTurns * kVector;
constexpr int kBlocks = kSums <= 16 && kPieces % kLanes == 0 ? 3 : kSums <= 32 ? 2 : 1;
constexpr int kRatio = HEADS / KV_HEADS;
constexpr int kGroupsAHead = kRatio / GROUP;
constexpr int kWidth = KV_HEADS * HEAD_DIM;

static_assert(HEAD_DIM % 2 == 0 && kRatio % GROUP == 0 && kMostSplits % 32 == 0);
static_assert(kTile % kRowsAtOnce == 0 && kSteps % kInFlight == 0);

using Piece = Pack<KV, kVector>;

__device__ __forceinline__ float minus_infinity() {
  return __int_as_float(0xFF800000);
}

__device__ __forceinline__ float warp_most(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0U, value, step));
  return value;
}

/// A token's part of the projections.
struct Token {
  const X* qkv;
  const float *bias, *q_norm, *k_norm, *cosine, *sine;
  float eps;

  __device__ __forceinline__ Head head(int index) const {
    return load(qkv + index * HEAD_DIM, bias == nullptr ? nullptr : bias + index * HEAD_DIM);
  }
  __device__ __forceinline__ Head rotated(int index, const float* norm) const {
    Head values = head(index);
    if (HEAD_NORM) normalise(values, norm, eps);
    rotate(values, cosine, sine);
    return values;
  }
};

/// `values` as the cache holds them, also where this block reads them.
__device__ __forceinline__ void keep(const Head& values, KV* here, KV* in_cache) {
  store(values, here);
  if (in_cache != nullptr) store(values, in_cache);
}

/// One sequence's rows of keys or values, with that of the token itself in shared memory.
struct Rows {
  const KV* rows;
  const KV* own;
  int own_position;

  __device__ __forceinline__ const Piece* at(int position) const {
    return reinterpret_cast<const Piece*>(
        position == own_position ? own : rows + static_cast<i64>(position) * kWidth);
  }
};

/// Pieces of kInFlight rows; rows past the last are read as the last.
__device__ __forceinline__ void fetch(const Rows& rows, int first, int last, int lane,
                                      Piece (&to)[kInFlight][kTurns]) {
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    const int position = first + i * kRowsAtOnce;
    const Piece* from = rows.at(position < last ? position : last);
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const int piece = lane + turn * kLanes;
      to[i][turn] = from[kPieces % kLanes == 0 || piece < kPieces ? piece : 0];
    }
  }
}

/// Asks for the rows of a tile that a lane will fetch. The token's own row is not there yet.
__device__ __forceinline__ void request(const Rows& rows, int first, int last, int lane) {
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int position = first + i * kRowsAtOnce;
    if (position < last && lane < kPieces)
      prefetch_l2(rows.rows + static_cast<i64>(position) * kWidth + lane * kVector);
  }
}

/// What the splits of a group left, in the order of the splits. `shares`: kMostSplits of each head.
__device__ __forceinline__ void combine(const float* sums, const float2* stats, i64 first_head,
                                        int splits, float (*shares)[kMostSplits], X* out) {
  const int lane = threadIdx.x % 32;
  for (int g = threadIdx.x / 32; g < GROUP; g += kWarps) {
    const float2* of_head = stats + (first_head + g) * gridDim.y;
    float2 part[kMostSplits / 32];
    float most = minus_infinity();
#pragma unroll
    for (int i = 0; i < kMostSplits / 32; ++i) {
      const int s = lane + i * 32;
      part[i] = s < splits ? __ldcg(&of_head[s]) : make_float2(minus_infinity(), 0.0F);
      most = fmaxf(most, part[i].x);
    }
    most = warp_most(most);
    float total = 0;
#pragma unroll
    for (int i = 0; i < kMostSplits / 32; ++i) {
      part[i].y *= power_of_two(part[i].x - most);
      total += part[i].y;
    }
    total = warp_sum(total);
#pragma unroll
    for (int i = 0; i < kMostSplits / 32; ++i)
      shares[g][lane + i * 32] = power_of_two(part[i].x - most) / total;
  }
  __syncthreads();
  for (int at = threadIdx.x; at < GROUP * HEAD_DIM; at += kWarps * 32) {
    const i64 head = first_head + at / HEAD_DIM;
    const float* of_head = sums + head * gridDim.y * HEAD_DIM + at % HEAD_DIM;
    float result = 0;
#pragma unroll 8
    for (int s = 0; s < splits; ++s)
      result += __ldcg(of_head + s * HEAD_DIM) * shares[at / HEAD_DIM][s];
    out[head * HEAD_DIM + at % HEAD_DIM] = from_float<X>(result);
  }
}

/// qkv: one row a token. sums: [row][head][split][HEAD_DIM]; stats: (largest score, sum of weights)
/// of [row][head][split], scores in units of log 2; arrived: blocks of [row][group] that are done,
/// zero before and after. out: [row][head][HEAD_DIM], zeros for a row that only fills the batch.
extern "C" __global__ void __launch_bounds__(kWarps * 32, kBlocks)
    attend_decode(const X* qkv, const float* bias, const float* q_norm, const float* k_norm,
                  float eps, const float* cosine, const float* sine, const Place* places, int layer,
                  int window, float scale, float* sums, float2* stats, u32* arrived, X* out) {
  __shared__ float queries[GROUP][HEAD_DIM];
  __shared__ alignas(16) KV own_key[HEAD_DIM];
  __shared__ alignas(16) KV own_value[HEAD_DIM];
  __shared__ float scores[GROUP][kTile];
  __shared__ float rescale[GROUP];
  __shared__ float gathered[kWarps][HEAD_DIM];
  __shared__ float total_weight[GROUP];
  __shared__ float shares[GROUP][kMostSplits];
  __shared__ bool comes_last;
  let_next_start();
  const int kv_head = blockIdx.x / kGroupsAHead;
  const int first_head = kv_head * kRatio + blockIdx.x % kGroupsAHead * GROUP;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int row_in_warp = lane / kLanes;
  const int lane_in_row = lane % kLanes;
  const i64 out_head = static_cast<i64>(blockIdx.z) * HEADS + first_head;

  // Its share of positions.
  const Place place = places[blockIdx.z];
  if (place.position < 0) {
    if (blockIdx.y != 0) return;
    wait_for_previous();  // It may still read what is written here.
    for (int at = threadIdx.x; at < GROUP * HEAD_DIM; at += kWarps * 32)
      out[out_head * HEAD_DIM + at] = from_float<X>(0.0F);
    return;
  }
  const int length = place.position + 1;
  const int seen_from = window > 0 && length > window ? length - window : 0;
  const int seen = length - seen_from;
  const int even = (seen + static_cast<int>(gridDim.y) - 1) / static_cast<int>(gridDim.y);
  const int share = seen <= kAlone ? kAlone : even > kLeastShare ? even : kLeastShare;
  const int splits = (seen + share - 1) / share;  // That have work.
  if (static_cast<int>(blockIdx.y) >= splits) return;
  const int begin = seen_from + static_cast<int>(blockIdx.y) * share;
  const int end = begin + share < length ? begin + share : length;

  KV* keys = layer_keys<KV>(place, layer, kWidth) + kv_head * HEAD_DIM;
  KV* values = keys + static_cast<i64>(place.capacity) * kWidth;
  const Rows key_rows{keys, own_key, place.position};
  const Rows value_rows{values, own_value, place.position};
  const int first_row = begin + warp * kRowsAWarp + row_in_warp;
  request(key_rows, first_row, end - 1, lane_in_row);
  request(value_rows, first_row, end - 1, lane_in_row);
  wait_for_previous();

  // Queries, and the token's own key and value.
  const i64 angles = static_cast<i64>(place.position) * (HEAD_DIM / 2);
  const Token token{qkv + static_cast<i64>(blockIdx.z) * (HEADS + 2 * KV_HEADS) * HEAD_DIM,
                    bias,
                    q_norm,
                    k_norm,
                    cosine + angles,
                    sine + angles,
                    eps};
  for (int g = warp; g < GROUP; g += kWarps)
    store(token.rotated(first_head + g, q_norm), queries[g]);
  if (end == length) {
    const i64 own = static_cast<i64>(place.position) * kWidth;
    const bool stores = blockIdx.x % kGroupsAHead == 0;
    if (warp == kWarps - 1)
      keep(token.rotated(HEADS + kv_head, k_norm), own_key, stores ? keys + own : nullptr);
    if (warp == kWarps - 2)
      keep(token.head(HEADS + KV_HEADS + kv_head), own_value, stores ? values + own : nullptr);
  }
  __syncthreads();

  float query[GROUP][kTurns][kVector];
#pragma unroll
  for (int g = 0; g < GROUP; ++g) {
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const int at = (lane_in_row + turn * kLanes) * kVector + i;
        query[g][turn][i] = at < HEAD_DIM ? queries[g][at] * (scale * kLog2E) : 0.0F;
      }
    }
  }
  float sum[GROUP][kTurns][kVector] = {};
  constexpr int kHeadsAWarp = (GROUP + kWarps - 1) / kWarps;
  float largest[kHeadsAWarp];
  float weight[kHeadsAWarp];
#pragma unroll
  for (int i = 0; i < kHeadsAWarp; ++i) {
    largest[i] = minus_infinity();
    weight[i] = 0;
  }

  for (int tile = begin; tile < end; tile += kTile) {
    const int first = first_row + (tile - begin);
    // Scores.
#pragma unroll
    for (int step = 0; step < kSteps; step += kInFlight) {
      if (tile + step * kRowsAtOnce >= end) break;
      Piece key[kInFlight][kTurns];
      fetch(key_rows, first + step * kRowsAtOnce, end - 1, lane_in_row, key);
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
          float dot = 0;
#pragma unroll
          for (int turn = 0; turn < kTurns; ++turn) {
#pragma unroll
            for (int j = 0; j < kVector; ++j)
              dot += query[g][turn][j] * to_float(key[i][turn].value[j]);
          }
#pragma unroll
          for (int half = kLanes / 2; half > 0; half /= 2) dot += __shfl_xor_sync(~0U, dot, half);
          if (lane_in_row == 0) scores[g][first - tile + (step + i) * kRowsAtOnce] = dot;
        }
      }
    }
    // The first values are on their way while scores become weights.
    Piece value[kInFlight][kTurns];
    fetch(value_rows, first, end - 1, lane_in_row, value);
    __syncthreads();

    // Weights of this tile, relative to the largest score so far.
#pragma unroll
    for (int i = 0; i < kHeadsAWarp; ++i) {
      const int g = warp + i * kWarps;
      if (g >= GROUP) break;
      float most = largest[i];
      for (int at = lane; at < kTile && tile + at < end; at += 32)
        most = fmaxf(most, scores[g][at]);
      most = warp_most(most);
      float total = 0;
      for (int at = lane; at < kTile; at += 32) {
        const float p = tile + at < end ? power_of_two(scores[g][at] - most) : 0.0F;
        scores[g][at] = p;
        total += p;
      }
      const float shrink = power_of_two(largest[i] - most);
      weight[i] = weight[i] * shrink + warp_sum(total);
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
        for (int j = 0; j < kVector; ++j) sum[g][turn][j] *= shrink;
      }
    }
#pragma unroll
    for (int step = 0; step < kSteps; step += kInFlight) {
      if (tile + step * kRowsAtOnce >= end) break;
      if (step > 0) fetch(value_rows, first + step * kRowsAtOnce, end - 1, lane_in_row, value);
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
          const float p = scores[g][first - tile + (step + i) * kRowsAtOnce];
#pragma unroll
          for (int turn = 0; turn < kTurns; ++turn) {
#pragma unroll
            for (int j = 0; j < kVector; ++j)
              sum[g][turn][j] += p * to_float(value[i][turn].value[j]);
          }
        }
      }
    }
    __syncthreads();
  }

  // Rows of a warp, then warps.
#pragma unroll
  for (int i = 0; i < kHeadsAWarp; ++i) {
    const int g = warp + i * kWarps;
    if (g < GROUP && lane == 0) {
      total_weight[g] = weight[i];
      if (splits > 1)
        stats[(out_head + g) * gridDim.y + blockIdx.y] = make_float2(largest[i], weight[i]);
    }
  }
#pragma unroll
  for (int g = 0; g < GROUP; ++g) {
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
#pragma unroll
        for (int rows = kLanes; rows < 32; rows *= 2)
          sum[g][turn][j] += __shfl_xor_sync(~0U, sum[g][turn][j], rows);
        const int at = (lane_in_row + turn * kLanes) * kVector + j;
        if (row_in_warp == 0 && at < HEAD_DIM) gathered[warp][at] = sum[g][turn][j];
      }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < HEAD_DIM; at += kWarps * 32) {
      float total = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) total += gathered[w][at];
      if (splits == 1) {
        out[(out_head + g) * HEAD_DIM + at] = from_float<X>(total / total_weight[g]);
      } else {
        sums[((out_head + g) * gridDim.y + blockIdx.y) * HEAD_DIM + at] = total;
      }
    }
    __syncthreads();
  }
  if (splits == 1) return;

  // The last of the group's blocks adds up.
  __threadfence();
  __syncthreads();
  u32* group_arrived = arrived + static_cast<i64>(blockIdx.z) * gridDim.x + blockIdx.x;
  if (threadIdx.x == 0) comes_last = atomicAdd(group_arrived, 1) == static_cast<u32>(splits) - 1;
  __syncthreads();
  if (!comes_last) return;
  __threadfence();
  combine(sums, stats, out_head, splits, shares, out);
  if (threadIdx.x == 0) *group_arrived = 0;
}
