// Third phase: sums of the GROUP threads that share a row, in cascade: registers hold what a thread
// summed; shuffles add up the threads of a warp, then groups of it that have parts of one long row;
// shared memory adds up the warps of a group.
//
// Shuffles halve: of COUNT sums a thread gives one half away and keeps the other, so that COUNT
// sums over S threads cost COUNT - 1 + log2(S / COUNT) shuffles instead of COUNT · log2(S), and end
// spread over the threads that store them.
#pragma once

#include "cuda/number.cuh"

/// What a thread holds after the cascade: `count` sums from column `first` of its share.
struct Owned {
  int first, count;
  bool stores;  ///< Others hold copies.
};

template <int COUNT, int DISTANCE, int LEAST>
__device__ __forceinline__ void add_lanes(float* sums, int lane, Owned& owned) {
  if constexpr (DISTANCE >= LEAST) {
    const bool upper = (lane & DISTANCE) != 0;
    if constexpr (COUNT > 1) {
      constexpr int kHalf = COUNT / 2;
#pragma unroll
      for (int j = 0; j < kHalf; ++j) {
        const float given = upper ? sums[j] : sums[j + kHalf];
        const float kept = upper ? sums[j + kHalf] : sums[j];
        sums[j] = kept + __shfl_xor_sync(0xFFFFFFFFu, given, DISTANCE);
      }
      owned.first += upper ? kHalf : 0;
      owned.count = kHalf;
      add_lanes<kHalf, DISTANCE / 2, LEAST>(sums, lane, owned);
    } else {
      sums[0] += __shfl_xor_sync(0xFFFFFFFFu, sums[0], DISTANCE);
      owned.stores = owned.stores && !upper;
      add_lanes<1, DISTANCE / 2, LEAST>(sums, lane, owned);
    }
  }
}

/// Adds up the threads of a warp that share a row: those that differ in the bits of `lane` from
/// N_LANES up to (excluding) SPAN.
template <int COUNT, int SPAN>
__device__ __forceinline__ Owned reduce_warp(float (&sums)[COUNT], int lane) {
  Owned owned{0, COUNT, true};
  add_lanes<COUNT, SPAN / 2, N_LANES>(sums, lane, owned);
  return owned;
}

/// Adds up the 2^joined neighbouring groups of SPACING threads that share a row; all of the warp
/// call it. The first of them ends with the sums.
template <int COUNT, int SPACING>
__device__ __forceinline__ void join_groups(float (&sums)[COUNT], Owned& owned, int joined,
                                            int lane) {
  if constexpr (SPACING < 32) {
    if (!__any_sync(0xFFFFFFFFu, joined > 0)) return;
    int level = 0;
#pragma unroll
    for (int distance = SPACING; distance < 32; distance *= 2) {
#pragma unroll
      for (int j = 0; j < COUNT; ++j) {
        if (j >= owned.count) break;
        const float other = __shfl_xor_sync(0xFFFFFFFFu, sums[j], distance);
        if (level < joined) sums[j] += other;
      }
      if (level < joined && (lane & distance) != 0) owned.stores = false;
      ++level;
    }
  }
}

/// Adds up the WARPS warps of a group through shared memory (THREADS / 32 · 32 floats · COUNT);
/// every thread of the block must call it. The first warp's threads end with the sums.
template <int COUNT, int WARPS>
__device__ __forceinline__ void reduce_group(float (&sums)[COUNT], Owned& owned, float* shared) {
  if constexpr (WARPS > 1) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    __syncthreads();  // What was there before has been read.
#pragma unroll
    for (int j = 0; j < COUNT; ++j) shared[(warp * COUNT + j) * 32 + lane] = sums[j];
    __syncthreads();
    owned.stores = owned.stores && warp % WARPS == 0;
    if (warp % WARPS == 0) {
      for (int w = 1; w < WARPS; ++w) {
#pragma unroll
        for (int j = 0; j < COUNT; ++j) sums[j] += shared[((warp + w) * COUNT + j) * 32 + lane];
      }
    }
  }
}
