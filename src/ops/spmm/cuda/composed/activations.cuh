// First phase: B where it can be gathered from, a pack of N_TILE / N_LANES values a column.
//
// Staged in shared memory as [k][N_TILE], a random 2-byte gather of a warp takes 3.4 cycles;
// through L1 it takes as many as it touches lines, about 28. Rows of 8 bytes and more lie swizzled,
// so that threads that each store eight neighbouring rows hit different banks; columns of the
// weight are packed that way (vectors.h).
#pragma once

#include "cuda/vector_load.cuh"

constexpr int kPerLane = N_TILE / N_LANES;  // Columns of B that a thread accumulates.
constexpr int kRowBytes = kPerLane * sizeof(StagedB);
constexpr int kWide = 16 / sizeof(B);  // Values of B that a thread loads at once.

/// Where row `i` of B lies.
__device__ __forceinline__ int place_of(int i) {
  return SWIZZLED ? i ^ (i >> 3 & 7) : i;
}

__device__ __forceinline__ StagedB to_staged(B x) {
  if constexpr (sizeof(StagedB) == sizeof(B)) {
    return reinterpret_cast<const StagedB&>(x);  // The same type.
  } else {
    return from_float<StagedB>(to_float(x));
  }
}

/// One value at a time: for any shape and alignment.
__device__ __forceinline__ void stage_values(StagedB* staged, const B* b, i64 b_stride, int k,
                                             int first, int n, int lane) {
  using Row = Pack<StagedB, kPerLane>;
#pragma unroll 1
  for (int i = threadIdx.x; i < k; i += THREADS) {
    Row row;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const i64 at = TOKEN_MAJOR ? (first + j) * b_stride + i : i * b_stride + first + j;
      row.value[j] = to_staged(first + j < n ? b[at] : B{});
    }
    reinterpret_cast<Row*>(staged)[place_of(i) * N_LANES + lane] = row;
  }
}

/// 16 bytes of each token at a time: kWide rows of B are turned in registers.
__device__ __forceinline__ void stage_tokens(StagedB* staged, const B* b, i64 b_stride, int k,
                                             int first, int n, int lane) {
  using Wide = Pack<B, kWide>;
  constexpr int kRowsAtOnce = SWIZZLED || N_LANES > 1 || kRowBytes >= 16 ? 1 : 16 / kRowBytes;
  using Rows = Pack<StagedB, kPerLane * kRowsAtOnce>;
  // Loads that are under way together: one of several tokens already is several, and 32 registers,
  // which is what 2048 threads have, hold no more.
  constexpr int kAtOnce = kPerLane == 1 && THREADS * BLOCKS <= 1024 ? 2 : 1;
  const int pieces = k / kWide;
#pragma unroll 1
  for (int from = threadIdx.x; from < pieces; from += kAtOnce * THREADS) {
    Wide token[kAtOnce][kPerLane] = {};
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
      const int i = from + p * THREADS;
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        if (first + j < n && i < pieces)
          token[p][j] = reinterpret_cast<const Wide*>(b + (first + j) * b_stride)[i];
      }
    }
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
      const int i = from + p * THREADS;
      if (i >= pieces) break;
#pragma unroll
      for (int r = 0; r < kWide; r += kRowsAtOnce) {
        Rows rows;
#pragma unroll
        for (int q = 0; q < kRowsAtOnce; ++q) {
#pragma unroll
          for (int j = 0; j < kPerLane; ++j)
            rows.value[q * kPerLane + j] = to_staged(token[p][j].value[r + q]);
        }
        reinterpret_cast<Rows*>(staged)[place_of(i * kWide + r) * N_LANES / kRowsAtOnce + lane] =
            rows;
      }
    }
  }
}

/// Rows of B whose values lie together, a pack at a time.
__device__ __forceinline__ void stage_features(StagedB* staged, const B* b, i64 b_stride, int k,
                                               int first, int lane) {
#pragma unroll 4
  for (int i = threadIdx.x; i < k; i += THREADS) {
    const auto values = *reinterpret_cast<const Pack<B, kPerLane>*>(b + i * b_stride + first);
    Pack<StagedB, kPerLane> row;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) row.value[j] = to_staged(values.value[j]);
    reinterpret_cast<Pack<StagedB, kPerLane>*>(staged)[place_of(i) * N_LANES + lane] = row;
  }
}

/// Copies columns [n0, n0 + N_TILE) of B to shared memory; what lies beyond n is zero.
__device__ __forceinline__ void stage_b(StagedB* staged, const B* b, i64 b_stride, int k, int n0,
                                        int n) {
  constexpr int kTogether = TOKEN_MAJOR ? kWide : kPerLane;  // Values of one load.
  const bool aligned = b_stride % kTogether == 0 && (!TOKEN_MAJOR || k % kWide == 0) &&
                       reinterpret_cast<u64>(b) % 16 == 0;
#pragma unroll 1
  for (int lane = 0; lane < N_LANES; ++lane) {
    const int first = n0 + lane * kPerLane;
    if (TOKEN_MAJOR && aligned) {
      stage_tokens(staged, b, b_stride, k, first, n, lane);
    } else if (!TOKEN_MAJOR && aligned && first + kPerLane <= n) {
      stage_features(staged, b, b_stride, k, first, lane);
    } else {
      stage_values(staged, b, b_stride, k, first, n, lane);
    }
  }
}

/// Row `column` of B, this lane's share.
struct GatherStaged {
  const StagedB* staged;
  int lane;
  __device__ __forceinline__ void operator()(u32 column, float (&x)[kPerLane]) const {
    const Pack<StagedB, kPerLane> pack =
        reinterpret_cast<const Pack<StagedB, kPerLane>*>(staged)[column * N_LANES + lane];
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) x[j] = to_float(pack.value[j]);
  }
};

/// The same from global memory through the caches.
struct GatherGlobal {
  const B* b;
  i64 stride;
  int n0, n, lane;
  __device__ __forceinline__ void operator()(u32 column, float (&x)[kPerLane]) const {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int token = n0 + lane * kPerLane + j;
      const i64 at = TOKEN_MAJOR ? token * stride + column : column * stride + token;
      x[j] = token < n ? to_float(b[at]) : 0.0f;
    }
  }
};
