// The stored blocks of Pᵀ·Q, sums over tokens, by mma.sync: any GPU from compute capability 8.0 on,
// any block.
//
// A block of the grid does a task (samples.h): some pieces, ROWS × COLUMNS of the result each, and
// the strips of P and of Q that they are products of. 32 tokens of all strips come by cp.async,
// STAGES - 1 stages ahead; each warp keeps the sums of up to SLOTS pieces. Both operands have
// tokens along K and lie token by token, so ldmatrix transposes them.
//
// Constants: ROWS, COLUMNS (16, 32 or 64), BLOCK_COLUMNS (of a stored block), MOST_ROWS,
// MOST_COLUMNS (strips of a task), SLOTS, WARPS, STAGES, X_TYPE (of all matrices).
#include "cuda/number.cuh"
#include "cuda/shared_words.cuh"
#include "cuda/tensor_core.cuh"
#include "ops/block_sparse/cuda/swizzle.cuh"

using X = X_TYPE;

constexpr int kThreads = WARPS * 32;
constexpr int kTokens = 32;  // A stage.
constexpr int kRowStrip = kTokens * ROWS * 2, kColumnStrip = kTokens * COLUMNS * 2;
constexpr int kStageBytes = MOST_ROWS * kRowStrip + MOST_COLUMNS * kColumnStrip;
static_assert(kRowStrip % 1024 == 0 && kColumnStrip % 1024 == 0);

struct alignas(16) Task {
  u32 piece, pieces;  ///< First, and how many; at most WARPS · SLOTS.
  u32 strip;          ///< First of its strips: those of rows, then those of columns.
  u16 rows, columns;  ///< How many.
};
struct Piece {
  u32 to;           ///< Row · 2 + (column / 64) among the values, rows of all blocks counted on.
  u16 row, column;  ///< Strips of the task.
};

/// 32 tokens of `count` strips of WIDTH columns each.
template <int WIDTH>
__device__ __forceinline__ void fetch_strips(u32 at, const X* from, i64 stride, const u32* strips,
                                             int count, int token, int tokens) {
  constexpr int kChunks = WIDTH / 8, kOfStrip = kTokens * kChunks;
  for (int e = threadIdx.x; e < count * kOfStrip; e += kThreads) {
    const int strip = e / kOfStrip, row = e % kOfStrip / kChunks, chunk = e % kChunks;
    const bool there = token + row < tokens;
    copy_16(at + strip * (kTokens * WIDTH * 2) + swizzled<WIDTH * 2>(row, chunk),
            there ? from + (token + row) * stride + strips[strip] + chunk * 8 : from, there);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    block_samples_mma(const X* p, i64 p_stride, const X* q, i64 q_stride, const Task* tasks,
                      const Piece* all_pieces, const u32* all_strips, X* out, int tokens) {
  const u32 base = dynamic_shared();
  const Task task = tasks[blockIdx.x];
  const u32* strips = all_strips + task.strip;
  const Piece* pieces = all_pieces + task.piece;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int stages = (tokens + kTokens - 1) / kTokens;

  const auto fetch = [&](int i) {
    const u32 at = base + i % STAGES * kStageBytes;
    fetch_strips<ROWS>(at, p, p_stride, strips, task.rows, i * kTokens, tokens);
    fetch_strips<COLUMNS>(at + MOST_ROWS * kRowStrip, q, q_stride, strips + task.rows, task.columns,
                          i * kTokens, tokens);
  };

  // Neighbours go to one warp: they mostly share a strip. Those of a short task to all warps.
  const int share = (static_cast<int>(task.pieces) + WARPS - 1) / WARPS;
  const int first = warp * share;
  const int mine = min(static_cast<int>(task.pieces) - first, share);
  u32 rows_at[SLOTS], columns_at[SLOTS];
#pragma unroll
  for (int s = 0; s < SLOTS; ++s) {
    rows_at[s] = s < mine ? pieces[first + s].row * kRowStrip : 0;
    columns_at[s] = s < mine ? MOST_ROWS * kRowStrip + pieces[first + s].column * kColumnStrip : 0;
  }

  float sums[SLOTS][ROWS / 16][COLUMNS / 8][4] = {};
#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) {
    if (i < stages) fetch(i);
    commit_copies();
  }
  for (int i = 0; i < stages; ++i) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();
    if (i + STAGES - 1 < stages) fetch(i + STAGES - 1);
    commit_copies();
    const u32 at = base + i % STAGES * kStageBytes;
#pragma unroll
    for (int s = 0; s < SLOTS; ++s) {
      if (s >= mine) break;
#pragma unroll
      for (int k = 0; k < kTokens / 16; ++k) {
        u32 b[COLUMNS / 16][4];
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; ++n)
          load_matrices<true>(
              b[n],
              at + columns_at[s] + swizzled<COLUMNS * 2>(k * 16 + lane % 16, n * 2 + lane / 16));
#pragma unroll
        for (int m = 0; m < ROWS / 16; ++m) {
          u32 a[4];
          load_matrices<true>(
              a, at + rows_at[s] +
                     swizzled<ROWS * 2>(k * 16 + lane / 16 * 8 + lane % 8, m * 2 + lane / 8 % 2));
#pragma unroll
          for (int n = 0; n < COLUMNS / 16; ++n) {
            multiply(sums[s][m][2 * n], a, b[n][0], b[n][1], X{});
            multiply(sums[s][m][2 * n + 1], a, b[n][2], b[n][3], X{});
          }
        }
      }
    }
  }

  struct alignas(4) Two {
    X value[2];
  };
#pragma unroll
  for (int s = 0; s < SLOTS; ++s) {
    if (s >= mine) break;
    const u32 to = pieces[first + s].to;
    X* const block = out + static_cast<i64>(to >> 1) * BLOCK_COLUMNS + (to & 1) * 64;
#pragma unroll
    for (int m = 0; m < ROWS / 16; ++m)
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; ++n)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float* sum = &sums[s][m][n][h * 2];
          *reinterpret_cast<Two*>(block + (m * 16 + h * 8 + lane / 4) * BLOCK_COLUMNS + n * 8 +
                                  lane % 4 * 2) = {{from_float<X>(sum[0]), from_float<X>(sum[1])}};
        }
  }
}
