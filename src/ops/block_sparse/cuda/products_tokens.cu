// C = act(A·B + bias) + residual, A block-sparse and perhaps transposed, by wgmma on Hopper, for
// blocks of 16 and 32 outputs (any works): tokens are the rows of the products.
//
// Each warpgroup has 64 · kRows tokens of the tile and all its features; a piece is the columns of
// its products, m64nOUTk16. A slab's tokens go to registers once and meet all of its pieces from
// there: read from shared memory by every product they would take most of its bandwidth. Blocks of
// the grid stay, and go through lists of tiles; clusters share slabs (slab_ring.cuh).
//
// Constants: FEATURES, TOKENS, GROUPS (of four warps, that multiply), OUT, IN, TRANSPOSED,
// MOST_PIECES, STAGES, CLUSTER, X_TYPE (of all matrices) and those of epilogue.cuh. multiply() for
// OUT and the dtype stands in front.
#include "cuda/number.cuh"
#include "cuda/operand.cuh"
#include "cuda/tensor_core.cuh"
#include "cuda/warpgroup.cuh"
#include "ops/block_sparse/cuda/results.cuh"
#include "ops/block_sparse/cuda/slab_ring.cuh"
#include "ops/block_sparse/cuda/swizzle.cuh"

constexpr int kThreads = (GROUPS + 1) * 128;
constexpr int kRows = TOKENS / (64 * GROUPS);  // Of 64 tokens, a warpgroup.
constexpr int kSteps = kSlab / 16;
static_assert(TOKENS % (64 * GROUPS) == 0 && TOKENS <= 256);

// `strips`: the first output of each strip of each group, -1 for none. `tile_begin`: of each
// cluster of the grid.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    block_products_tokens(const __grid_constant__ TensorMap x_map,
                          const __grid_constant__ TensorMap value_map, const Step* all_steps,
                          const u32* step_begin, const u32* pieces, const Errand* errands,
                          const u32* errand_begin, const i32* strips, const Tile* tiles,
                          const u32* tile_begin, X* c, i64 c_stride, const float* bias,
                          const X* residual, i64 residual_stride, int tokens) {
  const Ring ring{dynamic_shared()};
  const u32 rank = CLUSTER > 1 ? cluster_rank() : 0;
  open_ring(ring, GROUPS * 4);

  const int group =
      __shfl_sync(~0u, threadIdx.x / 128, 0);  // The same in all lanes, and known to be.
  if (group == GROUPS) {
    give_registers<40>();
    feed_ring(ring, x_map, value_map, all_steps, step_begin, pieces, errands, errand_begin, tiles,
              tile_begin);
  } else {
    take_registers<GROUPS == 2 ? 232 : GROUPS == 3 ? 152 : 112>();
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const Results results{c, c_stride, bias, residual, residual_stride};
    Phases full{0};
    for (u32 t = tile_begin[blockIdx.x / CLUSTER]; t < tile_begin[blockIdx.x / CLUSTER + 1]; ++t) {
      const Tile tile = tiles[t];
      const u32 of = tile.set * CLUSTER + rank;
      float sums[kRows][kStrips][OUT / 2];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int n = 0; n < kStrips; ++n)
#pragma unroll
          for (int i = 0; i < OUT / 2; ++i) sums[r][n][i] = 0;
      int before = -1;  // Slot of the products that may still run.
      const u32 end = step_begin[of + 1];
      u32 s = step_begin[of];
      Step next = s < end ? all_steps[s] : Step{};
      const auto multiply_step = [&](u32(&activations)[kRows][kSteps][4]) {
        const int slot = __shfl_sync(~0u, next.slot(), 0);
        const u32 masks[2] = {__shfl_sync(~0u, next.mask, 0), __shfl_sync(~0u, next.more, 0)};
        if (++s < end) next = all_steps[s];
        wait_for(ring.full(slot), full.next(slot));
        const u32 at = ring.slot(slot);
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int k = 0; k < kSteps; ++k)
            load_matrices<false>(activations[r][k], at + swizzled<128>((group * kRows + r) * 64 +
                                                                           warp * 16 + lane % 16,
                                                                       k * 2 + lane / 16));
        u64 weights = describe<kPieceColumns * 2>(at + kXBytes);
        begin_products();
#pragma unroll
        for (int n = 0; n < kStrips; ++n)
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
                           weights + k * (TRANSPOSED ? 16 * kPieceColumns * 2 : 32) / 16);
              weights += kPieceBytes / 16;
            }
          }
        end_products();
        wait_for_products<1>();
        if (before >= 0 && lane == 0) arrive(ring.empty(before));
        before = slot;
      };
      // Those of the step before are still read when the next ones are loaded.
      u32 even[kRows][kSteps][4], odd[kRows][kSteps][4];
      while (s < end) {
        multiply_step(even);
        if (s < end) multiply_step(odd);
      }
      wait_for_products<0>();
      if (before >= 0 && lane == 0) arrive(ring.empty(before));

#pragma unroll
      for (int n = 0; n < kStrips; ++n) {
        const int feature = strips[of * kStrips + n];
        if (feature < 0) continue;
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int token =
                tile.tokens * TOKENS + (group * kRows + r) * 64 + warp * 16 + h * 8 + lane / 4;
            if (token >= tokens) continue;
#pragma unroll
            for (int i = 0; i < OUT / 8; ++i)
              results.store(token, feature + i * 8 + lane % 4 * 2, sums[r][n][i * 4 + h * 2],
                            sums[r][n][i * 4 + h * 2 + 1]);
          }
      }
    }
  }
  // Blocks of the cluster still arrive here, and have copies on their way.
  if constexpr (CLUSTER > 1) {
    __syncwarp();
    cluster_sync();
  }
}
