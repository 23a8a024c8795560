// Rows of 32, 64 or 128 bytes in shared memory so that eight rows' pieces of 16 bytes lie in
// different banks: as the tensor copy engine and wgmma have it.
#pragma once

#include "cuda/number.cuh"

/// Offset of the 16 bytes number `chunk` of row `row`.
template <int ROW_BYTES>
__device__ __forceinline__ u32 swizzled(int row, int chunk) {
  static_assert(ROW_BYTES == 128 || ROW_BYTES == 64 || ROW_BYTES == 32);
  constexpr int kChunks = ROW_BYTES / 16;
  return row * ROW_BYTES + (chunk ^ row / (8 / kChunks) % kChunks) * 16;
}
