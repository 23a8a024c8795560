// The stored blocks of Pᵀ·Q, sums over tokens, by wgmma on Hopper, for blocks of 64 and 128.
//
// A block of the grid goes through tasks (samples.h) of pieces of 64×64: each of its two warpgroups
// multiplies one strip of P with four strips of Q, m64n256k16. Tokens are along K and both operands
// lie token by token, so both are transposed ones; strips of Q follow each other in shared memory,
// wherever they are in Q, which makes them one operand. 32 tokens a stage come by the tensor copy
// engine; a warp of its own has them brought.
//
// Constants: MOST_ROWS, MOST_COLUMNS (strips of a task), STAGES, BLOCK_COLUMNS (of a stored block),
// X_TYPE (of all matrices). multiply() for 256 columns and the dtype stands in front.
#include "cuda/number.cuh"
#include "cuda/operand.cuh"
#include "cuda/register_shares.cuh"
#include "cuda/shared_barrier.cuh"
#include "cuda/shared_words.cuh"
#include "cuda/tensor_copy.cuh"
#include "cuda/warpgroup.cuh"

using X = X_TYPE;

constexpr int kGroups = 2;
constexpr int kThreads = (kGroups + 1) * 128;
constexpr int kTokens = 32;  // A stage.
constexpr int kStrip = kTokens * 64 * 2;
constexpr int kStageBytes = (MOST_ROWS + MOST_COLUMNS) * kStrip;
constexpr int kTogether = 4;  // Strips of Q in one product.

struct alignas(16) Task {
  u32 piece, pieces;  ///< First, and how many.
  u32 strip;          ///< First of its strips: those of rows, then those of columns.
  u16 rows, columns;  ///< How many.
};
struct Piece {
  u32 to;           ///< Row · 2 + (column / 64) among the values, rows of all blocks counted on.
  u16 row, column;  ///< Strips of the task.
};

// Pieces of a task lie by rows, and where it has one row of strips the second warpgroup has the
// columns from kTogether on. So warpgroup g has the row min(g, rows - 1).
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    block_samples_wgmma(const __grid_constant__ TensorMap p_map,
                        const __grid_constant__ TensorMap q_map, const Task* tasks, int task_count,
                        const Piece* all_pieces, const u32* all_strips, X* out, int tokens) {
  const u32 base = dynamic_shared();
  const u32 all_full = base + STAGES * kStageBytes, all_empty = all_full + STAGES * 8;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) {
      init_barrier(all_full + i * 8, 1);
      init_barrier(all_empty + i * 8, kGroups * 4);
    }
    publish_barriers();
  }
  __syncthreads();
  const int group =
      __shfl_sync(~0u, threadIdx.x / 128, 0);  // The same in all lanes, and known to be.
  const int stages = (tokens + kTokens - 1) / kTokens;
  int slot = 0;
  if (group == kGroups) {
    give_registers<RegisterShares<kGroups>::kFeeding>();
    if (threadIdx.x / 32 % 4 != 0 || !elected()) return;
    u32 phase = 1;
    for (int t = blockIdx.x; t < task_count; t += gridDim.x) {
      const Task task = tasks[t];
      const u32* strips = all_strips + task.strip;
      for (int i = 0; i < stages; ++i) {
        const u32 full = all_full + slot * 8;
        u32 at = base + slot * kStageBytes;
        wait_for(all_empty + slot * 8, phase);
        arrive_expecting(full, (task.rows + task.columns) * kStrip);
        for (int r = 0; r < task.rows; ++r)
          copy_box(at + r * kStrip, p_map, strips[r], i * kTokens, full);
        at += MOST_ROWS * kStrip;
        for (int c = 0; c < task.columns; ++c)
          copy_box(at + c * kStrip, q_map, strips[task.rows + c], i * kTokens, full);
        if (++slot == STAGES) {
          slot = 0;
          phase ^= 1;
        }
      }
    }
    return;
  }
  take_registers<RegisterShares<kGroups>::kMultiplying>();
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  u32 phase = 0;
  for (int t = blockIdx.x; t < task_count; t += gridDim.x) {
    const Task task = tasks[t];
    const int row = min(group, task.rows - 1), column = task.rows == 1 ? group * kTogether : 0;
    const bool mine = column < task.columns;
    float sums[kTogether * 32];
#pragma unroll
    for (int i = 0; i < kTogether * 32; ++i) sums[i] = 0;
    int before = -1;
    for (int i = 0; i < stages; ++i) {
      wait_for(all_full + slot * 8, phase);
      const u32 at = base + slot * kStageBytes;
      // Strips beyond the task's are multiplied, too, whatever lies there: sums that nobody stores.
      const u64 p = describe<128>(at + row * kStrip, kStrip);
      const u64 q = describe<128>(at + (MOST_ROWS + column) * kStrip, kStrip);
      begin_products();
#pragma unroll
      for (int k = 0; k < kTokens / 16; ++k)
        multiply(sums, p + k * (16 * 128 / 16), q + k * (16 * 128 / 16));
      end_products();
      wait_for_products<1>();
      if (before >= 0 && lane == 0) arrive(all_empty + before * 8);
      before = slot;
      if (++slot == STAGES) {
        slot = 0;
        phase ^= 1;
      }
    }
    wait_for_products<0>();
    if (before >= 0 && lane == 0) arrive(all_empty + before * 8);

    struct alignas(4) Two {
      X value[2];
    };
    // This warpgroup's pieces: those of its row and of its columns.
    for (u32 i = 0; i < task.pieces && mine; ++i) {
      const Piece piece = all_pieces[task.piece + i];
      const int of = piece.column - column;
      if (piece.row != row || of < 0 || of >= kTogether) continue;
      X* const block = out + static_cast<i64>(piece.to >> 1) * BLOCK_COLUMNS + (piece.to & 1) * 64;
#pragma unroll
      for (int w = 0; w < kTogether; ++w) {
        if (of != w) continue;
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int h = 0; h < 2; ++h)
            *reinterpret_cast<Two*>(block + (warp * 16 + h * 8 + lane / 4) * BLOCK_COLUMNS + n * 8 +
                                    lane % 4 *
                                        2) = {{from_float<X>(sums[w * 32 + n * 4 + h * 2]),
                                               from_float<X>(sums[w * 32 + n * 4 + h * 2 + 1])}};
      }
    }
  }
}
