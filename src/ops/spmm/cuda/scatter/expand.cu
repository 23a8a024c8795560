// The scatter format back as dense rows, for products of many tokens: `dense` is zeros, and every
// nonzero is stored where it belongs.
//
// Blocks (i, …) take what block i of scatter.cu multiplies, a stage each in turn.
#include "cuda/number.cuh"

constexpr int kThreads = 256;

struct alignas(16) ScatterBlock {  // As in scatter.cu.
  u64 first;
  u32 first_stage;
  u32 stages;
};

/// @param rows of a tile
/// @param split blocks that share a tile
extern "C" __global__ void __launch_bounds__(kThreads)
    expand_scatter(const u32* stream, const ScatterBlock* blocks, const u32* stages,
                   const i32* groups, int rows, int split, u16* dense, i64 k) {
  const ScatterBlock block = blocks[blockIdx.x];
  const i32* const of_tile = groups + blockIdx.x / split * (rows / 8);
  const u32* words = stream + block.first;
  for (u32 s = 0; s < block.stages; ++s) {
    const u32 stage = stages[block.first_stage + s];
    const u32 count = (stage >> 16) * 32;
    if (s % gridDim.y == blockIdx.y) {
      u16* const out = dense + (stage & 0xFFFFu) * 64;
      for (u32 i = threadIdx.x; i < count; i += kThreads) {
        const u32 place = words[i] >> 16;  // In bytes: 128 a row, swizzled.
        const u32 r = place / 128;
        if (r >= static_cast<u32>(rows)) continue;  // Padding.
        const u32 column = (place / 16 % 8 ^ r % 8) * 8 + place % 16 / 2;
        out[(of_tile[r / 8] + static_cast<i64>(r % 8)) * k + column] = static_cast<u16>(words[i]);
      }
    }
    words += count;
  }
}
