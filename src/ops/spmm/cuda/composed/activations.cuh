// First phase: B where it can be gathered from, a pack of N_TILE / N_LANES values a column.
//
// Staged in shared memory as [k][N_TILE], a random 2-byte gather of a warp takes 3.4 cycles;
// through L1 it takes as many as it touches lines, about 28.
#pragma once

#include "cuda/vector_load.cuh"

constexpr int kPerLane = N_TILE / N_LANES;  // Columns of B that a thread accumulates.

/// Copies columns [n0, n0 + N_TILE) of B to shared memory; what lies beyond n is zero. A thread
/// makes one lane's pack at a time: neighbours read neighbouring rows of B.
__device__ __forceinline__ void stage_b(StagedB* staged, const B* b, i64 b_stride, int k, int n0,
                                        int n) {
  using Row = Pack<StagedB, kPerLane>;
  constexpr int kAhead = kPerLane >= 8 ? 2 : 8 / kPerLane;  // Packs whose loads are in flight.
#pragma unroll 1
  for (int lane = 0; lane < N_LANES; ++lane) {
    const int first = n0 + lane * kPerLane;
#pragma unroll kAhead
    for (int i = threadIdx.x; i < k; i += THREADS) {
      Row row;
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        const i64 at = TOKEN_MAJOR ? (first + j) * b_stride + i : i * b_stride + first + j;
        const float x = first + j < n ? to_float(b[at]) : 0.0f;
        row.value[j] = from_float<StagedB>(x);
      }
      reinterpret_cast<Row*>(staged)[i * N_LANES + lane] = row;
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
