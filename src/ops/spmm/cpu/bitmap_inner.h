// The inner loops of bitmap weights, one function an instruction set and weight dtype.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy {

/// sums[block][token][row] of 16 rows, for consecutive row blocks.
struct BitmapJob {
  const std::byte* stream;       ///< What the offsets count from.
  const std::uint64_t* offsets;  ///< One a block, and the end of the last.
  std::int64_t blocks;
  std::int64_t tiles;  ///< A block has.
  const float* x;      ///< interleave_tokens() of the padded activations, group 2 (f32 weights: 1).
  std::int64_t tokens;
  float* sums;
};
using BitmapInner = void(const BitmapJob& job);

BitmapInner bitmap_bf16_portable, bitmap_f16_portable, bitmap_f32_portable;
BitmapInner bitmap_bf16_avx2, bitmap_f16_avx2, bitmap_f32_avx2;
BitmapInner bitmap_bf16_avx512, bitmap_f16_avx512, bitmap_f32_avx512;

/// The same for bf16 weights and up to 16 tokens with AMX: x in one or two bf16 parts.
struct BitmapAmxJob {
  const std::byte* stream;
  const std::uint64_t* offsets;
  std::int64_t blocks;
  std::int64_t tiles;
  const void* x;  ///< As bitmap_amx_activations() lays them.
  std::int64_t tokens;
  int parts;
  float* sums;
};
void bitmap_bf16_amx(const BitmapAmxJob& job);

/// Lays tiles [first, last) of the activations: for each tile of 32 columns, `parts` × `tokens`
/// rows of 32 bf16. Part 0 is x rounded to bf16, part 1 what that left, rounded too.
void bitmap_amx_activations(const float* x, std::int64_t stride, std::int64_t tokens, int parts,
                            std::int64_t first, std::int64_t last, void* out);

}  // namespace rarefy
