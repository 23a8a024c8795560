// Causal attention of many tokens of one sequence, in tiles with a running softmax (Dao et al.
// 2022). A block takes kTile queries of one head and walks over the keys they see; keys and values
// come from the cache, where those of these tokens already lie. Sums and weights in f32.
//
// HEADS, KV_HEADS, HEAD_DIM (even); X: dtype of q and out; KV: dtype of the cache.
#include "cuda/dependent.cuh"
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"
#include "ops/attention/cuda/place.cuh"
#include "ops/attention/cuda/softmax.cuh"

constexpr int kTile = 64;      // Queries of a block, and keys of a step.
constexpr int kThreads = 256;  // 16×16: each has 4×4 scores, and 4 rows × HEAD_DIM/16 results.
constexpr int kDepth = 16;     // Of HEAD_DIM at once.
constexpr int kStride = kTile + 4;
constexpr int kColumns = (HEAD_DIM + 15) / 16;
constexpr int kPadded = (HEAD_DIM + 3) / 4 * 4;
constexpr float kUnseen = -1e30F;  // Below any score.

static_assert(HEAD_DIM % 2 == 0);

struct Shared {
  float queries[kDepth][kStride];  // Transposed: a thread reads four neighbours at once.
  float keys[kDepth][kStride];
  float weights[kTile][kTile + 1];
  float values[kTile][kPadded];
};

/// Elements d…d+3 of a head; zeros past its end.
template <class T>
__device__ __forceinline__ float4 load4(const T* head, int d) {
  if constexpr (HEAD_DIM % 4 == 0) {
    if (d >= HEAD_DIM) return make_float4(0, 0, 0, 0);
    const auto pack = *reinterpret_cast<const Pack<T, 4>*>(head + d);
    return make_float4(to_float(pack.value[0]), to_float(pack.value[1]), to_float(pack.value[2]),
                       to_float(pack.value[3]));
  } else {
    const auto element = [&](int i) { return i < HEAD_DIM ? to_float(head[i]) : 0.0F; };
    return make_float4(element(d), element(d + 1), element(d + 2), element(d + 3));
  }
}

/// Four elements of a row into a column of a transposed tile.
__device__ __forceinline__ void put(float (&tile)[kDepth][kStride], int d, int row, float4 four) {
  tile[d][row] = four.x;
  tile[d + 1][row] = four.y;
  tile[d + 2][row] = four.z;
  tile[d + 3][row] = four.w;
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    attend_prefill(const X* q, i64 q_stride, const Place* places, int layer, int tokens, int window,
                   float scale, X* out) {
  wait_for_previous();
  let_next_start();
  extern __shared__ float4 memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  constexpr int kWidth = KV_HEADS * HEAD_DIM;
  const int head = blockIdx.y;
  const int kv_head = head / (HEADS / KV_HEADS);
  const int first = blockIdx.x * kTile;  // Query of the block.
  const Place place = places[0];
  const KV* keys = layer_keys<KV>(place, layer, kWidth) + kv_head * HEAD_DIM;
  const KV* values = keys + static_cast<i64>(place.capacity) * kWidth;
  const int tx = threadIdx.x % 16;
  const int ty = threadIdx.x / 16;
  const int load_row = threadIdx.x / 4;
  const int load_d = threadIdx.x % 4 * 4;

  const int last = first + kTile < tokens ? first + kTile - 1 : tokens - 1;
  const int seen_to = place.position + last + 1;
  const int earliest = place.position + first - window + 1;
  const int seen_from = window > 0 && earliest > 0 ? earliest / kTile * kTile : 0;

  float result[4][kColumns] = {};
  float largest[4];
  float weight[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) largest[i] = kUnseen;  // Finite: no NaN where nothing is seen yet.

  for (int tile = seen_from; tile < seen_to; tile += kTile) {
    // Scores: 4×4 a thread.
    float score[4][4] = {};
    for (int d = 0; d < HEAD_DIM; d += kDepth) {
      __syncthreads();
      const float4 none = make_float4(0, 0, 0, 0);
      const int query = first + load_row;
      put(shared.queries, load_d, load_row,
          query < tokens ? load4(q + query * q_stride + head * HEAD_DIM, d + load_d) : none);
      const int key = tile + load_row;
      put(shared.keys, load_d, load_row,
          key < seen_to ? load4(keys + static_cast<i64>(key) * kWidth, d + load_d) : none);
      __syncthreads();
#pragma unroll
      for (int depth = 0; depth < kDepth; ++depth) {
        const float4 a = *reinterpret_cast<const float4*>(&shared.queries[depth][ty * 4]);
        const float4 b = *reinterpret_cast<const float4*>(&shared.keys[depth][tx * 4]);
        const float as[4] = {a.x, a.y, a.z, a.w};
        const float bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) score[i][j] += as[i] * bs[j];
        }
      }
    }
    // Softmax so far: a row belongs to 16 neighbouring lanes.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int position = place.position + first + ty * 4 + i;
      float most = largest[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = tile + tx * 4 + j;
        const bool seen = key <= position && (window <= 0 || key > position - window);
        score[i][j] = seen ? score[i][j] * (scale * kLog2E) : kUnseen;
        most = fmaxf(most, score[i][j]);
      }
#pragma unroll
      for (int step = 8; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0U, most, step));
      float total = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float p = score[i][j] == kUnseen ? 0.0F : power_of_two(score[i][j] - most);
        shared.weights[ty * 4 + i][tx * 4 + j] = p;
        total += p;
      }
#pragma unroll
      for (int step = 8; step > 0; step /= 2) total += __shfl_xor_sync(~0U, total, step);
      const float shrink = power_of_two(largest[i] - most);
      largest[i] = most;
      weight[i] = weight[i] * shrink + total;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) result[i][c] *= shrink;
    }
    // Values.
    for (int at = threadIdx.x * 4; at < kTile * kPadded; at += kThreads * 4) {
      const int key = at / kPadded;
      const int d = at % kPadded;
      *reinterpret_cast<float4*>(&shared.values[key][d]) =
          tile + key < seen_to ? load4(values + static_cast<i64>(tile + key) * kWidth, d)
                               : make_float4(0, 0, 0, 0);
    }
    __syncthreads();
    for (int key = 0; key < kTile; ++key) {
      float p[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) p[i] = shared.weights[ty * 4 + i][key];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int d = tx + c * 16;
        const float v = HEAD_DIM % 16 == 0 || d < HEAD_DIM ? shared.values[key][d] : 0.0F;
#pragma unroll
        for (int i = 0; i < 4; ++i) result[i][c] += p[i] * v;
      }
    }
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int query = first + ty * 4 + i;
    if (query >= tokens) break;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int d = tx + c * 16;
      if (d < HEAD_DIM)
        out[(static_cast<i64>(query) * HEADS + head) * HEAD_DIM + d] =
            from_float<X>(result[i][c] / weight[i]);
    }
  }
}
