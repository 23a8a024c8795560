// C = act(A·B + bias) + residual, A block-sparse and perhaps transposed, by wgmma on Hopper, for
// blocks of 16 and 32 outputs (any works): tokens are the rows of the products.
//
// Each warpgroup has 64 · kRows tokens of the tile and one of PARTS of its features; a piece is the
// columns of its products, m64nOUTk16. A slab's tokens go to registers once and meet all of its
// pieces from there: read from shared memory by every product they would take most of its
// bandwidth. Blocks of the grid stay, and go through lists of tiles (slab_ring.cuh).
//
// Constants: FEATURES, TOKENS, GROUPS (of four warps, that multiply), PARTS, OUT, IN, TRANSPOSED,
// MOST_PIECES, STAGES, X_TYPE (of all matrices) and those of epilogue.cuh. multiply() for
// OUT and the dtype stands in front.
#include "cuda/number.cuh"
#include "cuda/operand.cuh"
#include "cuda/register_shares.cuh"
#include "cuda/tensor_core.cuh"
#include "cuda/warpgroup.cuh"
#include "ops/block_sparse/cuda/results.cuh"
#include "ops/block_sparse/cuda/slab_ring.cuh"
#include "ops/block_sparse/cuda/swizzle.cuh"

constexpr int kThreads = (GROUPS + 1) * 128;
constexpr int kTokenGroups = GROUPS / PARTS;
constexpr int kRows = TOKENS / (64 * kTokenGroups);  // Of 64 tokens, a warpgroup.
constexpr int kMine = kStrips / PARTS;               // Strips of a warpgroup.
constexpr int kSteps = kSlab / 16;
constexpr bool kAhead = GROUPS <= 2;  // There are registers to load while products run.
static_assert(TOKENS % (64 * kTokenGroups) == 0 && TOKENS <= 256 && kStrips % PARTS == 0);

// `strips`: the first output of each strip of each group, -1 for none. `tile_begin`: of each
// block of the grid.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    block_products_tokens(const __grid_constant__ TensorMap x_map,
                          const __grid_constant__ TensorMap value_map, const Step* all_steps,
                          const u32* step_begin, const u32* pieces, const i32* strips,
                          const Tile* tiles, const u32* tile_begin, X* c, i64 c_stride,
                          const float* bias, const X* residual, i64 residual_stride, int tokens) {
  const Ring ring{dynamic_shared()};
  ring.open(GROUPS * 4);

  const int group =
      __shfl_sync(~0u, threadIdx.x / 128, 0);  // The same in all lanes, and known to be.
  if (group == GROUPS) {
    give_registers<RegisterShares<GROUPS>::kFeeding>();
    fill_ring(ring, x_map, value_map, all_steps, step_begin, pieces, tiles, tile_begin);
  } else {
    take_registers<RegisterShares<GROUPS>::kMultiplying>();
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const int token_group = group % kTokenGroups, part = group / kTokenGroups;
    const Results results{c, c_stride, bias, residual, residual_stride};
    Turn turn{0, 0};
    for (u32 t = tile_begin[blockIdx.x]; t < tile_begin[blockIdx.x + 1]; ++t) {
      const Tile tile = tiles[t];
      float sums[kRows][kMine][OUT / 2];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int n = 0; n < kMine; ++n)
#pragma unroll
          for (int i = 0; i < OUT / 2; ++i) sums[r][n][i] = 0;
      const u32 end = step_begin[tile.group + 1];
      u32 s = step_begin[tile.group];
      Step next = s < end ? all_steps[s] : Step{};
      // Of the step that is loaded: which pieces are this warpgroup's, and where they lie.
      u32 masks[2], at = 0;
      int slot = 0;
      const auto load_step = [&](u32(&activations)[kRows][kSteps][4]) {
        slot = turn.slot;
        masks[0] = __shfl_sync(~0u, next.mask, 0);
        masks[1] = __shfl_sync(~0u, next.more, 0);
        int others = 0;
        if constexpr (PARTS > 1) {
          constexpr int kBits = kMine * kAcross;
          const u64 all = masks[0] | static_cast<u64>(masks[1]) << 32;
          others = __popcll(all & ((1ull << part * kBits) - 1));
          masks[0] = all >> part * kBits;
          masks[1] = all >> part * kBits >> 32;
        }
        if (++s < end) next = all_steps[s];
        wait_for(ring.full(slot), turn.phase);
        turn.next();
        const u32 x_at = ring.slot(slot);
        at = x_at + kXBytes + others * kPieceBytes;
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int k = 0; k < kSteps; ++k)
            load_matrices<false>(
                activations[r][k],
                x_at + swizzled<128>((token_group * kRows + r) * 64 + warp * 16 + lane % 16,
                                     k * 2 + lane / 16));
      };
      // Each branch is a group of products of its own, whatever is committed when, so a step waits
      // for all of its products; what the next one needs is loaded meanwhile.
      const auto multiply_step = [&](const u32(&activations)[kRows][kSteps][4],
                                     u32(&others)[kRows][kSteps][4]) {
        const int mine = slot;
        // Addresses are in the lower half: one addition each instead of two.
        const u64 described = describe<kPieceColumns * 2>(at);
        u32 weights = described;
        const u32 manner = described >> 32;
        begin_products();
#pragma unroll
        for (int n = 0; n < kMine; ++n)
#pragma unroll
          for (int a = 0; a < kAcross; ++a) {
            constexpr int kBits = 32;
            const int bit = n * kAcross + a;
            if (masks[bit / kBits] >> bit % kBits & 1) {
#pragma unroll
              for (int k = 0; k < IN / 16; ++k)
#pragma unroll
                for (int r = 0; r < kRows; ++r)
                  multiply(sums[r][n], activations[r][a * (IN / 16) + k],
                           static_cast<u64>(manner) << 32 |
                               (weights + k * (TRANSPOSED ? 16 * kPieceColumns * 2 : 32) / 16));
              weights += kPieceBytes / 16;
            }
          }
        end_products();
        const bool more = s < end;
        if (kAhead && more) load_step(others);
        wait_for_products<0>();
        if (lane == 0) arrive(ring.empty(mine));
        if (!kAhead && more) load_step(others);
        return more;
      };
      u32 even[kRows][kSteps][4], odd[kRows][kSteps][4];
      bool more = s < end;
      if (more) load_step(even);
      while (more) {
        if constexpr (kAhead) {
          more = multiply_step(even, odd);
          if (more) more = multiply_step(odd, even);
        } else {
          more = multiply_step(even, even);
        }
      }

#pragma unroll
      for (int n = 0; n < kMine; ++n) {
        const int feature = strips[tile.group * kStrips + part * kMine + n];
        if (feature < 0) continue;
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int token = tile.tokens * TOKENS + (token_group * kRows + r) * 64 + warp * 16 +
                              h * 8 + lane / 4;
            if (token >= tokens) continue;
#pragma unroll
            for (int i = 0; i < OUT / 8; ++i)
              results.store(token, feature + i * 8 + lane % 4 * 2, sums[r][n][i * 4 + h * 2],
                            sums[r][n][i * 4 + h * 2 + 1]);
          }
      }
    }
  }
}
