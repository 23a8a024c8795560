// The ring that slabs of activations and pieces of the weight come through on Hopper, and who fills
// it: a warp of its own, by the tensor copy engine.
//
// Barriers: `full` (an arrival, then bytes) and `empty` (each consuming warp) of every slot. Slots
// are used in turn.
#pragma once

#include "cuda/shared_barrier.cuh"
#include "cuda/shared_words.cuh"
#include "cuda/tensor_copy.cuh"
#include "ops/block_sparse/cuda/pieces.cuh"

struct Ring {
  u32 base;

  static constexpr u32 kBarriers = STAGES * kStageBytes, kBytes = kBarriers + STAGES * 16;
  __device__ __forceinline__ u32 slot(int i) const { return base + i * kStageBytes; }
  __device__ __forceinline__ u32 full(int i) const { return base + kBarriers + i * 8; }
  __device__ __forceinline__ u32 empty(int i) const { return base + kBarriers + (STAGES + i) * 8; }

  /// By all threads, before anything else.
  __device__ __forceinline__ void open(int consuming_warps) const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < STAGES; ++i) {
        init_barrier(full(i), 1);
        init_barrier(empty(i), consuming_warps);
      }
      publish_barriers();
    }
    __syncthreads();
  }
};

/// Whose turn it is: a slot, and the parity to wait for at its barriers.
struct Turn {
  int slot;
  u32 phase;
  __device__ __forceinline__ void next() {
    if (++slot == STAGES) {
      slot = 0;
      phase ^= 1;
    }
  }
};

/// What the warpgroup that computes nothing does: slabs and pieces of this block's steps. Lists are
/// read by a whole warp, a step ahead of the copies that need them.
__device__ __forceinline__ void fill_ring(const Ring& ring, const TensorMap& x_map,
                                          const TensorMap& value_map, const Step* all_steps,
                                          const u32* step_begin, const u32* pieces,
                                          const Tile* tiles, const u32* tile_begin) {
  if (threadIdx.x / 32 % 4 != 0) return;
  const int lane = threadIdx.x % 32;
  const bool leads = elected();  // Known to the compiler to be one lane: lane == 0 is not.
  constexpr int kLoads = (MOST_PIECES + 31) / 32;  // Pieces of a step, a lane.
  Turn turn{0, 1};                                 // Slots are empty to begin with.
  for (u32 t = tile_begin[blockIdx.x]; t < tile_begin[blockIdx.x + 1]; ++t) {
    const Tile tile = tiles[t];
    const Step* steps = all_steps + step_begin[tile.group];
    const int count = step_begin[tile.group + 1] - step_begin[tile.group];
    const auto step_at = [&](int s) { return s < count ? steps[s] : Step{}; };
    const auto load_pieces = [&](u32(&codes)[kLoads], const Step& step) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
        codes[i] = i * 32 + lane < step.count() ? pieces[step.first + i * 32 + lane] : 0;
    };
    Step step = step_at(0), next = step_at(1);
    u32 codes[kLoads];
    load_pieces(codes, step);
    for (int s = 0; s < count; ++s, turn.next()) {
      u32 next_codes[kLoads];
      load_pieces(next_codes, next);
      const Step after = step_at(s + 2);
      const u32 full = ring.full(turn.slot), at = ring.slot(turn.slot);
      const int here = step.count();
      wait_for(ring.empty(turn.slot), turn.phase);
      __syncwarp();  // Apart from the others the lane that leads would ask for boxes twice.
      if (leads) {
        arrive_expecting(full, kXBytes + here * kPieceBytes);
        copy_box(at, x_map, step.slab * kSlab, tile.tokens * TOKENS, full);
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
#pragma unroll 4
        for (int j = i * 32; j < min(here, i * 32 + 32); ++j) {
          const u32 code = __shfl_sync(~0u, codes[i], j % 32);
          if (leads)
            copy_box(at + kXBytes + j * kPieceBytes, value_map, column_of(code), row_of(code),
                     full);
        }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) codes[i] = next_codes[i];
      step = next;
      next = after;
    }
  }
}
