// C = act(A·B + bias) + residual, A block-sparse and perhaps transposed, by mma.sync: any GPU from
// compute capability 8.0 on, any block.
//
// A block of the grid makes one tile, FEATURES × TOKENS; its warps share the tokens, 16 · kRows
// each, which are the rows of the products; pieces are their columns. Slabs of activations and
// their pieces come by cp.async, STAGES - 1 steps ahead.
//
// Constants: FEATURES, TOKENS, OUT, IN, TRANSPOSED, MOST_PIECES (of a step), BLOCK_COLUMNS (of a
// stored block), STAGES, WARPS, X_TYPE (of all matrices) and those of epilogue.cuh.
#include "cuda/number.cuh"
#include "cuda/shared_words.cuh"
#include "cuda/tensor_core.cuh"
#include "ops/block_sparse/cuda/pieces.cuh"
#include "ops/block_sparse/cuda/results.cuh"
#include "ops/block_sparse/cuda/swizzle.cuh"

constexpr int kThreads = WARPS * 32;
constexpr int kRows = TOKENS / (16 * WARPS);  // Of 16 tokens, a warp.
constexpr int kRowBytes = kPieceColumns * 2;
constexpr int kSteps = kSlab / 16;
static_assert(TOKENS % (16 * WARPS) == 0);

/// Of 16 inputs from `k` on and 16 outputs from `n` on: two pairs of registers, for 8 outputs each.
__device__ __forceinline__ void load_piece(u32 (&b)[4], u32 piece, int k, int n, int lane) {
  const int low = lane % 8, middle = lane / 8 % 2, high = lane / 16;
  if constexpr (TRANSPOSED) {
    load_matrices<true>(b, piece + swizzled<kRowBytes>(k + middle * 8 + low, n / 8 + high));
  } else {
    load_matrices<false>(b, piece + swizzled<kRowBytes>(n + high * 8 + low, k / 8 + middle));
  }
}

// `strips`: the first output of each strip of each group, -1 for none. `tiles`: one a block.
extern "C" __global__ void __launch_bounds__(kThreads)
    block_products_mma(const X* values, const X* x, i64 x_stride, int inputs, const Step* all_steps,
                       const u32* step_begin, const u32* pieces, const i32* strips,
                       const Tile* tiles, X* c, i64 c_stride, const float* bias, const X* residual,
                       i64 residual_stride, int tokens) {
  const u32 base = dynamic_shared();
  const Tile tile = tiles[blockIdx.x];
  const int first_token = tile.tokens * TOKENS;
  const Step* steps = all_steps + step_begin[tile.group];
  const int count = step_begin[tile.group + 1] - step_begin[tile.group];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  const auto fetch = [&](int i) {
    const Step step = steps[i];
    const u32 at = base + i % STAGES * kStageBytes;
#pragma unroll
    for (int e = threadIdx.x; e < TOKENS * 8; e += kThreads) {
      const int row = e / 8, chunk = e % 8;
      const int token = first_token + row, input = static_cast<int>(step.slab) * kSlab + chunk * 8;
      const bool there = token < tokens && input < inputs;
      copy_16(at + swizzled<128>(row, chunk), there ? x + token * x_stride + input : x, there);
    }
    constexpr int kChunks = kPieceColumns / 8, kOfPiece = kPieceRows * kChunks;
    const int all = step.count() * kOfPiece;
    for (int e = threadIdx.x; e < all; e += kThreads) {
      const u32 piece = pieces[step.first + e / kOfPiece];
      const int row = e % kOfPiece / kChunks, chunk = e % kChunks;
      const X* from = values + static_cast<i64>(row_of(piece) + row) * BLOCK_COLUMNS +
                      column_of(piece) + chunk * 8;
      copy_16(at + kXBytes + e / kOfPiece * kPieceBytes + swizzled<kRowBytes>(row, chunk), from,
              true);
    }
  };

  float sums[kStrips][OUT / 8][kRows][4] = {};
#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) {
    if (i < count) fetch(i);
    commit_copies();
  }
  for (int i = 0; i < count; ++i) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();  // This step is there, and nobody reads the one before.
    if (i + STAGES - 1 < count) fetch(i + STAGES - 1);
    commit_copies();

    const u64 mask = steps[i].pieces();
    const u32 at = base + i % STAGES * kStageBytes;
    u32 activations[kSteps][kRows][4];
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        load_matrices<false>(
            activations[k][r],
            at + swizzled<128>((warp * kRows + r) * 16 + lane % 16, k * 2 + lane / 16));
    u32 piece = at + kXBytes;
#pragma unroll
    for (int s = 0; s < kStrips; ++s)
#pragma unroll
      for (int a = 0; a < kAcross; ++a) {
        if ((mask >> (s * kAcross + a) & 1) == 0) continue;
#pragma unroll
        for (int k = 0; k < IN / 16; ++k)
#pragma unroll
          for (int n = 0; n < OUT / 16; ++n) {
            u32 b[4];
            load_piece(b, piece, k * 16, n * 16, lane);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              multiply(sums[s][2 * n][r], activations[a * (IN / 16) + k][r], b[0], b[1], X{});
              multiply(sums[s][2 * n + 1][r], activations[a * (IN / 16) + k][r], b[2], b[3], X{});
            }
          }
        piece += kPieceBytes;
      }
  }

  const Results results{c, c_stride, bias, residual, residual_stride};
#pragma unroll
  for (int s = 0; s < kStrips; ++s) {
    const int feature = strips[tile.group * kStrips + s];
    if (feature < 0) continue;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int token = first_token + (warp * kRows + r) * 16 + lane / 4 + h * 8;
        if (token >= tokens) continue;
#pragma unroll
        for (int n = 0; n < OUT / 8; ++n)
          results.store(token, feature + n * 8 + lane % 4 * 2, sums[s][n][r][h * 2],
                        sums[s][n][r][h * 2 + 1]);
      }
  }
}
