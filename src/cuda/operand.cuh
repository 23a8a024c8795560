// How an operand of wgmma lies in shared memory.
#pragma once

#include "cuda/number.cuh"

/// An operand whose rows of ROW_BYTES (128, 64 or 32) the tensor copy engine has put one after the
/// other, swizzled; `at` is a multiple of 8 rows. With rows along M or N the products take 16
/// columns, and the next 16 begin 32 bytes further. With rows along K (`TRANSPOSED` in the
/// instruction) they take 16 rows, and M or N beyond a row goes on `next` bytes further.
template <int ROW_BYTES>
__device__ __forceinline__ u64 describe(u32 at, u32 next = 16) {
  static_assert(ROW_BYTES == 128 || ROW_BYTES == 64 || ROW_BYTES == 32);
  constexpr u64 kSwizzle = ROW_BYTES == 128 ? 1 : ROW_BYTES == 64 ? 2 : 3;
  return kSwizzle << 62 | u64{8 * ROW_BYTES >> 4} << 32 | static_cast<u64>(next >> 4) << 16 |
         (at & 0x3ffff) >> 4;
}
