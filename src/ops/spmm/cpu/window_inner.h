// The inner loops of window weights, one function an instruction set and weight dtype.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy {

/// sums[block][token][row] (32 rows a block for bf16, else 64) of consecutive blocks.
struct WindowJob {
  const std::byte* stream;       ///< What the offsets count from.
  const std::uint64_t* offsets;  ///< One a block, and the end of the last.
  const std::uint32_t* steps;    ///< One a block.
  std::int64_t blocks;
  const void* x;          ///< f32 activations; for AVX-512 tables by window_tables_…().
  std::int64_t x_stride;  ///< From token to token, in bytes.
  std::int64_t tokens;
  int parts;  ///< bf16 parts of an activation (bf16 weights with AVX-512).
  float* sums;
};
using WindowInner = void(const WindowJob& job);

WindowInner window_bf16_portable, window_f16_portable, window_f32_portable;
WindowInner window_bf16_avx2, window_f16_avx2, window_f32_avx2;
WindowInner window_bf16_avx512, window_f16_avx512, window_f32_avx512;

/// Tables of one token, which lies in f32, zero-padded to whole windows. For each window of 128
/// columns: the high bytes of part 0 rounded to bf16, its low bytes, and with two parts those of
/// what that left; 256 · parts bytes.
void window_tables_bf16(const float* x, std::int64_t windows, int parts, void* tables);
/// The same with the four bytes of f32, highest first; 512 bytes a window.
void window_tables_f32(const float* x, std::int64_t windows, void* tables);

}  // namespace rarefy
