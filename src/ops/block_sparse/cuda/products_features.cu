// C = act(A·B + bias) + residual, A block-sparse and perhaps transposed, by wgmma on Hopper, for
// blocks of 64 outputs and more: weights are the rows of the products.
//
// Each warpgroup owns a strip of 64 outputs and multiplies nothing but its own pieces,
// m64nTOKENSk16, with all tokens of the tile: shared memory is read 2 KB + 32 · TOKENS bytes a
// product. Blocks of the grid stay, and go through lists of tiles (slab_ring.cuh).
//
// Constants: FEATURES (64 a warpgroup), TOKENS, OUT (64), IN, TRANSPOSED, MOST_PIECES, STAGES,
// X_TYPE (of all matrices) and those of epilogue.cuh. multiply() for the tile and the
// dtype stands in front.
#include "cuda/number.cuh"
#include "cuda/operand.cuh"
#include "cuda/register_shares.cuh"
#include "cuda/warpgroup.cuh"
#include "ops/block_sparse/cuda/results.cuh"
#include "ops/block_sparse/cuda/slab_ring.cuh"

constexpr int kGroups = FEATURES / 64;  // Of four warps, that multiply.
constexpr int kThreads = (kGroups + 1) * 128;
constexpr int kAtOnce = 32;         // Tokens that are turned together.
constexpr int kTurnedRow = 64 + 4;  // Floats: eight rows of a fragment hit different banks.
constexpr int kTurnedBytes = kAtOnce * kTurnedRow * 4;
constexpr int kSums = TOKENS / 2;
static_assert(OUT == 64 && TOKENS % kAtOnce == 0 && TOKENS <= 256 && FEATURES % 64 == 0);

// Sums lie with features along rows, results token by token: 32 tokens at a time change places in
// shared memory of the warpgroup's own.
__device__ __forceinline__ void store_tile(const float (&sums)[kSums], u32 turned, int group,
                                           int feature, int first_token, int tokens,
                                           const Results& results) {
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const u32 mine = turned + (lane % 4 * 2 * kTurnedRow + warp * 16 + lane / 4) * 4;
#pragma unroll
  for (int part = 0; part < TOKENS / kAtOnce; ++part) {
    sync_threads(1 + group, 128);  // Everybody has read what was there.
#pragma unroll
    for (int i = 0; i < kAtOnce / 2; ++i)
      store_shared(mine + ((i / 4 * 8 + i % 2) * kTurnedRow + i / 2 % 2 * 8) * 4,
                   sums[part * (kAtOnce / 2) + i]);
    sync_threads(1 + group, 128);
#pragma unroll
    for (int i = 0; i < kAtOnce / 8; ++i) {
      const int row = i * 8 + thread / 16, token = first_token + part * kAtOnce + row;
      if (token >= tokens || feature < 0) continue;
      const float4 v = load_shared(turned + (row * kTurnedRow + thread % 16 * 4) * 4);
      results.store(token, feature + thread % 16 * 4, v.x, v.y);
      results.store(token, feature + thread % 16 * 4 + 2, v.z, v.w);
    }
  }
}

// `strips`: the first output of each strip of each group, -1 for none. `tile_begin`: of each
// block of the grid.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    block_products_features(const __grid_constant__ TensorMap x_map,
                            const __grid_constant__ TensorMap value_map, const Step* all_steps,
                            const u32* step_begin, const u32* pieces, const i32* strips,
                            const Tile* tiles, const u32* tile_begin, X* c, i64 c_stride,
                            const float* bias, const X* residual, i64 residual_stride, int tokens) {
  const Ring ring{dynamic_shared()};
  constexpr u32 kTurned = (Ring::kBytes + 127) / 128 * 128;
  ring.open(kGroups * 4);

  const int group =
      __shfl_sync(~0u, threadIdx.x / 128, 0);  // The same in all lanes, and known to be.
  if (group == kGroups) {
    give_registers<RegisterShares<kGroups>::kFeeding>();
    fill_ring(ring, x_map, value_map, all_steps, step_begin, pieces, tiles, tile_begin);
  } else {
    take_registers<RegisterShares<kGroups>::kMultiplying>();
    const int lane = threadIdx.x % 32;
    const Results results{c, c_stride, bias, residual, residual_stride};
    Turn turn{0, 0};
    for (u32 t = tile_begin[blockIdx.x]; t < tile_begin[blockIdx.x + 1]; ++t) {
      const Tile tile = tiles[t];
      float sums[kSums];
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[i] = 0;
      int before = -1, slot = 0;  // Slots of the products that may still run, and of the next.
      const u32 end = step_begin[tile.group + 1];
      u32 s = step_begin[tile.group];
      u32 left = 0, piece = 0;  // Pieces of this warpgroup's in the slot; the first of them.
      Step next = s < end ? all_steps[s] : Step{};
      // Nothing but products between two waits for them, or they would be waited for one by one: so
      // all that is conditional comes first.
      for (;;) {
        while (left == 0 && s < end) {
          slot = turn.slot;
          const u32 mask = __shfl_sync(~0u, next.mask, 0);
          if (++s < end) next = all_steps[s];
          wait_for(ring.full(slot), turn.phase);
          turn.next();
          left = mask >> (group * kAcross) & ((1u << kAcross) - 1);
          piece = ring.slot(slot) + kXBytes +
                  __popc(mask & ((1u << group * kAcross) - 1)) * kPieceBytes;
          if (left != 0) break;
          // Nothing of this warpgroup's. However many such steps follow, they get their slots: none
          // is kept for products that end unwatched.
          wait_for_products<0>();
          if (lane == 0) {
            if (before >= 0) arrive(ring.empty(before));
            arrive(ring.empty(slot));
          }
          before = -1;
        }
        if (left == 0) break;
        const u64 weights = describe<kPieceColumns * 2>(piece);
        const u64 activations = describe<128>(ring.slot(slot)) + (__ffs(left) - 1) * (IN / 16) * 2;
        begin_products();
#pragma unroll
        for (int k = 0; k < IN / 16; ++k)
          multiply(sums, weights + k * (TRANSPOSED ? 16 * 128 : 32) / 16, activations + k * 2);
        end_products();
        wait_for_products<1>();
        if (before >= 0 && lane == 0) arrive(ring.empty(before));
        left &= left - 1;
        piece += kPieceBytes;
        before = left == 0 ? slot : -1;
      }
      wait_for_products<0>();
      if (before >= 0 && lane == 0) arrive(ring.empty(before));
      store_tile(sums, ring.base + kTurned + group * kTurnedBytes, group,
                 strips[tile.group * kStrips + group], tile.tokens * TOKENS, tokens, results);
    }
  }
}
