// Causal attention of many tokens of one sequence on tensor cores: prefill.cu's, for 16-bit queries
// and a cache of the same dtype, heads of whole steps of 16 up to 128.
//
// A block takes kQueries queries of one head, a warp 16 of them, which stay in its registers. Keys
// and values come kKeys at a time to shared memory, one tile ahead. Scores are sums of mma.m16n8k16
// in f32; with a running softmax (Dao et al. 2022) they become weights that, rounded to X, are the
// left operand of the second product as they lie in registers.
//
// HEADS, KV_HEADS, HEAD_DIM; X: dtype of q, cache and out.
#include "cuda/dependent.cuh"
#include "cuda/number.cuh"
#include "ops/attention/cuda/place.cuh"
#include "ops/attention/cuda/softmax.cuh"

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kQueries = kWarps * 16;
constexpr int kKeys = 64;
constexpr int kRow = HEAD_DIM + 8;  // In shared memory: eight rows of 16 bytes hit all banks.
constexpr int kSteps = HEAD_DIM / 16;
constexpr int kPieces = HEAD_DIM / 8;  // Of 16 bytes a row.
constexpr float kUnseen = -1e30F;      // Below any score.

static_assert(HEAD_DIM % 16 == 0 && HEAD_DIM <= 128 && sizeof(X) == 2);

struct Shared {
  X keys[2][kKeys][kRow];
  X values[2][kKeys][kRow];
};

template <class T>
constexpr bool kIsF16 = false;
template <>
constexpr bool kIsF16<f16> = true;

__device__ __forceinline__ u32 two(float low, float high) {
  u32 bits;
  if constexpr (kIsF16<X>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  }
  return bits;
}

__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  if constexpr (kIsF16<X>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// Four 8×8 matrices; a lane names a row of one of them.
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(u32 (&to)[4], const X* row) {
  const auto at = static_cast<u32>(__cvta_generic_to_shared(row));
  if constexpr (TRANSPOSED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
  }
}

/// Brings rows [first, first + kKeys) on their way; zeros from `end` on.
__device__ __forceinline__ void fetch(X (&to)[kKeys][kRow], const X* rows, i64 width, int first,
                                      int end) {
#pragma unroll
  for (int at = threadIdx.x; at < kKeys * kPieces; at += kThreads) {
    const int row = at / kPieces;
    const int piece = at % kPieces;
    const bool there = first + row < end;
    const X* from = rows + (there ? first + row : 0) * width + piece * 8;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     static_cast<u32>(__cvta_generic_to_shared(&to[row][piece * 8]))),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
  }
}

/// Over the four lanes that share a row of scores.
__device__ __forceinline__ float row_most(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0U, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0U, value, 2));
}
__device__ __forceinline__ float row_sum(float value) {
  value += __shfl_xor_sync(~0U, value, 1);
  return value + __shfl_xor_sync(~0U, value, 2);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    attend_prefill(const X* q, i64 q_stride, const Place* places, int layer, int tokens, int window,
                   float scale, X* out) {
  wait_for_previous();
  let_next_start();
  extern __shared__ float4 memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  constexpr int kWidth = KV_HEADS * HEAD_DIM;
  const int head = blockIdx.y;
  const int kv_head = head / (HEADS / KV_HEADS);
  // The last queries see most: they begin first.
  const int first = (gridDim.x - 1 - blockIdx.x) * kQueries;
  const Place place = places[0];
  const X* keys = layer_keys<X>(place, layer, kWidth) + kv_head * HEAD_DIM;
  const X* values = keys + static_cast<i64>(place.capacity) * kWidth;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int row = first + warp * 16 + lane / 4;  // And row + 8.
  const int column = lane % 4 * 2;               // Of a step's or tile's first half.

  const int last = first + kQueries < tokens ? first + kQueries - 1 : tokens - 1;
  const int seen_to = place.position + last + 1;
  const int earliest = place.position + first - window + 1;
  const int seen_from = window > 0 && earliest > 0 ? earliest / kKeys * kKeys : 0;

  fetch(shared.keys[0], keys, kWidth, seen_from, seen_to);
  fetch(shared.values[0], values, kWidth, seen_from, seen_to);
  asm volatile("cp.async.commit_group;" ::: "memory");

  u32 query[kSteps][4];
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = row + i % 2 * 8;
      const X* from = q + at * q_stride + head * HEAD_DIM + step * 16 + i / 2 * 8 + column;
      query[step][i] = at < tokens ? *reinterpret_cast<const u32*>(from) : 0;
    }
  }

  float result[HEAD_DIM / 8][4] = {};
  float largest[2] = {kUnseen, kUnseen};  // Finite: no NaN where nothing is seen yet.
  float weight[2] = {};
  int slot = 0;
  for (int tile = seen_from; tile < seen_to; tile += kKeys, slot ^= 1) {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();  // This tile is there, and nobody reads the one before.
    if (tile + kKeys < seen_to) {
      fetch(shared.keys[slot ^ 1], keys, kWidth, tile + kKeys, seen_to);
      fetch(shared.values[slot ^ 1], values, kWidth, tile + kKeys, seen_to);
      asm volatile("cp.async.commit_group;" ::: "memory");
    }

    // Scores: of 16 keys at a time, in steps of 16 elements.
    float score[kKeys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int pair = 0; pair < kKeys / 16; ++pair) {
        u32 b[4];
        load_matrices<false>(
            b,
            &shared.keys[slot][pair * 16 + lane / 16 * 8 + lane % 8][step * 16 + lane / 8 % 2 * 8]);
        multiply(score[2 * pair], query[step], b[0], b[1]);
        multiply(score[2 * pair + 1], query[step], b[2], b[3]);
      }
    }

    // Weights, relative to the largest score so far.
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = place.position + row + half * 8;
      float most = largest[half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int key = tile + n * 8 + column + i;
          float& s = score[n][half * 2 + i];
          const bool seen = key <= position && (window <= 0 || key > position - window);
          s = seen ? s * (scale * kLog2E) : kUnseen;
          most = fmaxf(most, s);
        }
      }
      most = row_most(most);
      float total = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& s = score[n][half * 2 + i];
          s = s == kUnseen ? 0.0F : power_of_two(s - most);
          total += s;
        }
      }
      const float shrink = power_of_two(largest[half] - most);
      largest[half] = most;
      weight[half] = weight[half] * shrink + total;  // Of this lane's keys: added up at the end.
#pragma unroll
      for (int n = 0; n < HEAD_DIM / 8; ++n) {
        result[n][half * 2] *= shrink;
        result[n][half * 2 + 1] *= shrink;
      }
    }

    // Values.
#pragma unroll
    for (int pair = 0; pair < kKeys / 16; ++pair) {
      const float(&low)[4] = score[2 * pair];
      const float(&high)[4] = score[2 * pair + 1];
      const u32 a[4] = {two(low[0], low[1]), two(low[2], low[3]), two(high[0], high[1]),
                        two(high[2], high[3])};
#pragma unroll
      for (int n = 0; n < HEAD_DIM / 16; ++n) {
        u32 b[4];
        load_matrices<true>(
            b,
            &shared.values[slot][pair * 16 + lane / 8 % 2 * 8 + lane % 8][n * 16 + lane / 16 * 8]);
        multiply(result[2 * n], a, b[0], b[1]);
        multiply(result[2 * n + 1], a, b[2], b[3]);
      }
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = row_sum(weight[half]);
    const int query_at = row + half * 8;
    if (query_at >= tokens) continue;
    X* const to = out + (static_cast<i64>(query_at) * HEADS + head) * HEAD_DIM + column;
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; ++n)
      *reinterpret_cast<u32*>(to + n * 8) =
          two(result[n][half * 2] / total, result[n][half * 2 + 1] / total);
  }
}
