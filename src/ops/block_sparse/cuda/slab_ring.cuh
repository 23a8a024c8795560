// The ring that slabs of activations and pieces of the weight come through on Hopper, and who fills
// it: a warp of its own in each block, by the tensor copy engine, and in clusters a second one.
//
// The blocks of a cluster make tiles of the same tokens and different groups, and a slab that
// several of them need is read from L2 once: one of them, the step's bringer, has it copied to all
// that need it, and to no other (to each in the slot that the step names, since the engine writes
// to the same place everywhere). Each needer first tells the bringer that the slot is free. So
// blocks wait for each other only where they share, and no block's shared memory takes slabs in
// that it does not use.
//
// Barriers: `full` (an arrival, then bytes), `empty` (each consuming warp), and at the bringer one
// `ready` a slot and needer. Each completes one phase a use; users keep the parity of each.
#pragma once

#include "cuda/cluster.cuh"
#include "cuda/shared_barrier.cuh"
#include "cuda/shared_words.cuh"
#include "cuda/tensor_copy.cuh"
#include "ops/block_sparse/cuda/pieces.cuh"

/// A slab that this block brings: slab | slot << 16 | which blocks need it << 24.
struct Errand {
  u32 where;
};

struct Ring {
  u32 base;

  static constexpr u32 kBarriers = STAGES * kStageBytes;
  __device__ __forceinline__ u32 slot(int i) const { return base + i * kStageBytes; }
  __device__ __forceinline__ u32 full(int i) const { return base + kBarriers + i * 8; }
  __device__ __forceinline__ u32 empty(int i) const { return base + kBarriers + (STAGES + i) * 8; }
  __device__ __forceinline__ u32 ready(int i, int needer) const {
    return base + kBarriers + (2 * STAGES + i * CLUSTER + needer) * 8;
  }

  /// By one thread, before all others of the cluster go on.
  __device__ __forceinline__ void make_barriers(int consuming_warps) const {
    for (int i = 0; i < STAGES; ++i) {
      init_barrier(full(i), 1);
      init_barrier(empty(i), consuming_warps);
      if constexpr (CLUSTER > 1)
        for (int n = 0; n < CLUSTER; ++n) init_barrier(ready(i, n), 1);
    }
    publish_barriers();
  }
};

/// Parities of the barriers of a ring's slots; the first wait is for `first`.
struct Phases {
  u64 bits;
  __device__ __forceinline__ u32 next(int i) {
    const u32 phase = bits >> i & 1;
    bits ^= 1ull << i;
    return phase;
  }
};

/// Pieces of this block's steps and, where it is alone, slabs. One thread.
__device__ __forceinline__ void fill_ring(const Ring& ring, const TensorMap& x_map,
                                          const TensorMap& value_map, const Step* all_steps,
                                          const u32* step_begin, const u32* pieces,
                                          const Tile* tiles, const u32* tile_begin) {
  const u32 rank = CLUSTER > 1 ? cluster_rank() : 0;
  Phases empty{~0ull};  // Slots are empty to begin with.
  for (u32 t = tile_begin[blockIdx.x / CLUSTER]; t < tile_begin[blockIdx.x / CLUSTER + 1]; ++t) {
    const Tile tile = tiles[t];
    const u32 group = tile.set * CLUSTER + rank, end = step_begin[group + 1];
    u32 s = step_begin[group];
    Step next = s < end ? all_steps[s] : Step{};
    while (s < end) {
      const Step step = next;
      if (++s < end) next = all_steps[s];
      const int slot = step.slot(), count = step.count();
      const u32 full = ring.full(slot);
      u32 piece = pieces[step.first];  // Requested before the slot is there.
      wait_for(ring.empty(slot), empty.next(slot));
      if constexpr (CLUSTER > 1) arrive_at(ring.ready(slot, rank), step.bringer());
      arrive_expecting(full, kXBytes + count * kPieceBytes);
      if constexpr (CLUSTER == 1)
        copy_box(ring.slot(slot), x_map, step.slab() * kSlab, tile.tokens * TOKENS, full);
      u32 to = ring.slot(slot) + kXBytes;
      for (int i = 1; i <= count; ++i, to += kPieceBytes) {
        const u32 now = piece;
        if (i < count) piece = pieces[step.first + i];
        copy_box(to, value_map, column_of(now), row_of(now), full);
      }
    }
  }
}

/// Slabs that this block brings for its cluster. One thread.
__device__ __forceinline__ void run_errands(const Ring& ring, const TensorMap& x_map,
                                            const Errand* errands, const u32* errand_begin,
                                            const Tile* tiles, const u32* tile_begin) {
  static_assert(STAGES * CLUSTER <= 64, "a parity for each");
  const u32 rank = cluster_rank();
  Phases ready{0};
  for (u32 t = tile_begin[blockIdx.x / CLUSTER]; t < tile_begin[blockIdx.x / CLUSTER + 1]; ++t) {
    const Tile tile = tiles[t];
    const u32 group = tile.set * CLUSTER + rank;
    for (u32 e = errand_begin[group]; e < errand_begin[group + 1]; ++e) {
      const u32 where = errands[e].where;
      const int slot = where >> 16 & 0xff;
      const u32 needers = where >> 24;
      for (int n = 0; n < CLUSTER; ++n)
        if (needers >> n & 1) wait_for_cluster(ring.ready(slot, n), ready.next(slot * CLUSTER + n));
      copy_box_to(ring.slot(slot), x_map, (where & 0xffff) * kSlab, tile.tokens * TOKENS,
                  ring.full(slot), needers);
    }
  }
}

/// Makes the barriers of a ring with so many consuming warps, for all blocks of the cluster.
__device__ __forceinline__ void open_ring(const Ring& ring, int consuming_warps) {
  if (threadIdx.x == 0) ring.make_barriers(consuming_warps);
  if constexpr (CLUSTER > 1) {
    cluster_sync();
  } else {
    __syncthreads();
  }
}

/// What the warpgroup that computes nothing does.
__device__ __forceinline__ void feed_ring(const Ring& ring, const TensorMap& x_map,
                                          const TensorMap& value_map, const Step* all_steps,
                                          const u32* step_begin, const u32* pieces,
                                          const Errand* errands, const u32* errand_begin,
                                          const Tile* tiles, const u32* tile_begin) {
  const int warp = threadIdx.x / 32 % 4;
  if (warp == 0 && elected())
    fill_ring(ring, x_map, value_map, all_steps, step_begin, pieces, tiles, tile_begin);
  if constexpr (CLUSTER > 1)
    if (warp == 1 && elected()) run_errands(ring, x_map, errands, errand_begin, tiles, tile_begin);
}
