// 16×16 dwords transposed in registers. Internal linkage: each ISA file has its own.
#pragma once

// GCC 12 warns about the undefined operands inside its own intrinsics (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

namespace rarefy {
namespace {

/// 4×4 dwords of each 128-bit lane: lines[i] dword d becomes lines[d] dword i.
[[gnu::always_inline]] inline void transpose_lanes(__m512i* lines) {
  const __m512i a = _mm512_unpacklo_epi32(lines[0], lines[1]);
  const __m512i b = _mm512_unpackhi_epi32(lines[0], lines[1]);
  const __m512i c = _mm512_unpacklo_epi32(lines[2], lines[3]);
  const __m512i d = _mm512_unpackhi_epi32(lines[2], lines[3]);
  lines[0] = _mm512_unpacklo_epi64(a, c);
  lines[1] = _mm512_unpackhi_epi64(a, c);
  lines[2] = _mm512_unpacklo_epi64(b, d);
  lines[3] = _mm512_unpackhi_epi64(b, d);
}

/// lines[i] dword d becomes lines[d] dword i.
[[gnu::always_inline]] inline void transpose16(__m512i* lines) {
#pragma GCC unroll 4  // Rolled up, GCC 12 passes the lines through the stack.
  for (int i = 0; i < 16; i += 4) transpose_lanes(lines + i);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i low = _mm512_shuffle_i32x4(lines[j], lines[4 + j], 0x44);
    const __m512i low_far = _mm512_shuffle_i32x4(lines[8 + j], lines[12 + j], 0x44);
    const __m512i high = _mm512_shuffle_i32x4(lines[j], lines[4 + j], 0xee);
    const __m512i high_far = _mm512_shuffle_i32x4(lines[8 + j], lines[12 + j], 0xee);
    lines[j] = _mm512_shuffle_i32x4(low, low_far, 0x88);
    lines[4 + j] = _mm512_shuffle_i32x4(low, low_far, 0xdd);
    lines[8 + j] = _mm512_shuffle_i32x4(high, high_far, 0x88);
    lines[12 + j] = _mm512_shuffle_i32x4(high, high_far, 0xdd);
  }
}

}  // namespace
}  // namespace rarefy
