// The scatter format back as dense rows, for products of many tokens: tiles of 64 columns as
// scatter.cu makes them in shared memory, then written out whole, zeros and all.
//
// A tile's stages are shared out to `turns` blocks, by columns in turn.
#include "cuda/shared_words.cuh"
#include "ops/spmm/cuda/scatter/block.cuh"

constexpr u32 kThreads = 256;

/// @param rows of a tile
/// @param split blocks of `blocks` that share a tile's stages, which follow each other
/// Shared memory: rows · 128 bytes, and 1024 for what padding words are stored to.
extern "C" __global__ void __launch_bounds__(kThreads)
    expand_scatter(const u32* stream, const ScatterBlock* blocks, const u32* stages,
                   const i32* groups, u32 rows, u32 split, u32 turns, u16* dense, i64 m, i64 k) {
  const u32 tile = dynamic_shared();
  const u32 of = blockIdx.x / turns, turn = blockIdx.x % turns;
  const i32* const of_tile = groups + of * (rows / 8);
  const u32* words = stream + blocks[of * split].first;
  u32 stage = blocks[of * split].first_stage, end = stage;
  for (u32 i = 0; i < split; ++i) end += blocks[of * split + i].stages;

  for (u32 slab = 0; slab < (k + 63) / 64; ++slab) {
    const bool mine = slab % turns == turn;
    if (mine) {
      for (u32 at = threadIdx.x * 16; at < rows * 128; at += kThreads * 16)
        store_shared(tile + at, make_uint4(0, 0, 0, 0));
      __syncthreads();
    }
    for (; stage < end && (stages[stage] & 0xFFFFu) == slab; ++stage) {
      const u32 count = (stages[stage] >> 16) * 32;
      if (mine)
        for (u32 i = threadIdx.x; i < count; i += kThreads)
          store_shared(tile + (words[i] >> 16), static_cast<u16>(words[i]));
      words += count;
    }
    if (!mine) continue;
    __syncthreads();
    for (u32 i = threadIdx.x; i < rows * 8; i += kThreads) {
      const u32 r = i / 8, piece = i % 8;
      const i64 row = of_tile[r / 8] + static_cast<i64>(r % 8), column = slab * 64 + piece * 8;
      if (of_tile[r / 8] < 0 || row >= m || column >= k) continue;
      const uint4 eight = load_shared_words(tile + r * 128 + (piece ^ r % 8) * 16);
      u16* const to = dense + row * k + column;
      if (k % 8 == 0) {
        *reinterpret_cast<uint4*>(to) = eight;
      } else {
        const u32 pairs[] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (int j = 0; j < 8; ++j)
          if (column + j < k) to[j] = static_cast<u16>(pairs[j / 2] >> j % 2 * 16);
      }
    }
    __syncthreads();  // The tile is cleared for the next.
  }
}
