// The gather format back as dense rows, for products of many tokens: `dense` is zeros, and every
// nonzero is stored where it belongs.
//
// Blocks (i, …) take what block i of gather.cu multiplies, its warps the same chunks, one in turn.
//
// Constants: those of chunk.cuh.
#include "cuda/number.cuh"
#include "ops/spmm/cuda/gather/chunk.cuh"

/// @param strips of a block
/// @param tile_groups of 16 rows of a tile
/// @param split blocks that share a tile
/// @param columns of a block
extern "C" __global__ void expand_gather(const u32* stream, const GatherWarp* warps,
                                         const GatherStrip* table, const u16* places,
                                         const i32* groups, int strips, int tile_groups, int split,
                                         int columns, u16* dense, i64 k) {
  const GatherWarp work = warps[blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32];
  const u32 lane = threadIdx.x % 32;
  // The lane's value in a word is of row r and of the column in `from`'s word (gather.cu).
  const u32 g = lane / 4, t = lane % 4, e = t ^ lane / 8;
  const u32 r = g + 8 * (e % 2), from = e * 8 + 2 * t + g % 2;
  u16* const out = dense + static_cast<i64>(blockIdx.x % split) * columns;
  constexpr u32 kChunkWords = kChunkBytes / 4;
  const u32* words = stream + work.first * kChunkWords;
  const GatherStrip* const of_block = table + static_cast<i64>(blockIdx.x) * strips;
  const u32 rows = tile_groups * 16;
  const u16* const of_runs = places + static_cast<i64>(blockIdx.x) * (strips * 32 - rows);
  u32 strip = work.strip, left = work.left;
  for (u32 i = 0; i < work.chunks; ++i, words += kChunkWords) {
    if (i % gridDim.y == blockIdx.y) {
      u32 place = of_runs[strip * 16 + r];
      if (place >= rows) place = of_runs[strips * 16 + place - rows];  // An extra one: its row's.
      if (place == kNoRow) place = 0;  // No run: nothing but zeros, which are not stored.
      const i64 group = groups[blockIdx.x / split * tile_groups + place / 16];
      u16* const row = out + (group + place % 16) * k;
      const auto put = [&](u16 value, u32 at) {
        if (value != 0) row[at ^ (at >> 3 & 7)] = value;  // Swizzling twice is the way back.
      };
      if constexpr (DELTA > 0) {
        const u32* const code = words + kColumnsAt / 4 + from * 2;
        const LaneColumns columns{code[0], code[1], DELTA == 11 ? words[kMoreAt / 4 + from] : 0};
        u32 at = first_column(columns);
        for (int pair = 0; pair < kPairs; ++pair) {
          if (pair > 0) at += column_step(columns, pair);
          put(static_cast<u16>(words[lane * 4 + pair / 2] >> pair % 2 * 16), at);
        }
      } else {
        for (int pair = 0; pair < kPairs; ++pair)
          put(static_cast<u16>(words[lane * kPairs + pair]), words[from * kPairs + pair] >> 16);
      }
    }
    if (--left == 0) {
      do {
        ++strip;
      } while (strip < static_cast<u32>(strips) && of_block[strip].chunks == 0);
      left = strip < static_cast<u32>(strips) ? of_block[strip].chunks : ~0u;
    }
  }
}
