// The gather kernel's activations in shared memory: eight tokens of a column in 16 bytes.
//
// Constants: TOKEN_TILES (of 8), WARPS.
#pragma once

#include "cuda/number.cuh"

constexpr int kThreads = WARPS * 32;

__device__ __forceinline__ u32 permute(u32 a, u32 b, u32 selector) {
  u32 d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
  return d;
}

/// Columns [first, first + 8) of a token, one by one; zeros from `k` on.
__device__ __noinline__ uint4 load_columns(const u16* token, int first, int k) {
  u32 pair[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = first + 2 * i;
    pair[i] = at < k ? token[at] : 0;
    if (at + 1 < k) pair[i] |= static_cast<u32>(token[at + 1]) << 16;
  }
  return make_uint4(pair[0], pair[1], pair[2], pair[3]);
}

/// Puts columns [begin, begin + columns) of B into shared memory: [8 tokens][column][token], 16
/// bytes a column. Column i of a block lies at i ^ (i / 8 % 8), so that neither these stores nor
/// the gathers of the packer's order meet in a bank.
__device__ __forceinline__ void stage_activations(u8* planes, const u16* b, i64 stride, int n,
                                                  int begin, int columns, int k) {
  const int groups = columns / 8;
  const bool aligned = (reinterpret_cast<u64>(b) & 15) == 0 && stride % 8 == 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < groups * TOKEN_TILES; i += kThreads) {
    const int tile = TOKEN_TILES == 1 ? 0 : i / groups;
    const int group = i - tile * groups;
    const int first = begin + group * 8;
    const u16* token = b + tile * 8 * stride;
    uint4 tokens[8];
    if (aligned && first + 8 <= k) {
      // All eight under way before the first is used.
#pragma unroll
      for (int t = 0; t < 8; ++t) {
        tokens[t] = make_uint4(0, 0, 0, 0);
        if (tile * 8 + t < n) tokens[t] = *reinterpret_cast<const uint4*>(token + first);
        token += stride;
      }
    } else {
#pragma unroll
      for (int t = 0; t < 8; ++t) {
        tokens[t] = make_uint4(0, 0, 0, 0);
        if (tile * 8 + t < n) tokens[t] = load_columns(token, first, k);
        token += stride;
      }
    }
    u8* to = planes + (tile * columns + group * 8) * 16;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      u32 row[4];
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const uint4 even = tokens[2 * q], odd = tokens[2 * q + 1];
        const u32 x = c < 2 ? even.x : c < 4 ? even.y : c < 6 ? even.z : even.w;
        const u32 y = c < 2 ? odd.x : c < 4 ? odd.y : c < 6 ? odd.z : odd.w;
        row[q] = permute(x, y, c % 2 != 0 ? 0x7632 : 0x5410);
      }
      *reinterpret_cast<uint4*>(to + (c ^ (group & 7)) * 16) =
          make_uint4(row[0], row[1], row[2], row[3]);
    }
  }
}
