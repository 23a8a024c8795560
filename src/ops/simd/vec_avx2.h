// Eight floats in a YMM register. For files compiled for AVX2 + FMA + F16C only; everything is
// local to them.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace rarefy::simd {
namespace {

struct Vec {
  __m256 v;
};

inline constexpr int kLanes = 8;
/// Rows × vectors of a register tile: 8 accumulators of 16 registers.
inline constexpr int kTileRows = 4;
inline constexpr int kTileVectors = 2;

inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline Vec broadcast(float x) {
  return {_mm256_set1_ps(x)};
}
inline Vec load(const float* p) {
  return {_mm256_loadu_ps(p)};
}
inline void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.v);
}
/// The first `count` < kLanes lanes; the others are zero, or not written.
inline Vec load_first(const float* p, int count) {
  return {_mm256_maskload_ps(p, first_lanes(count))};
}
inline void store_first(float* p, Vec x, int count) {
  _mm256_maskstore_ps(p, first_lanes(count), x.v);
}
inline Vec load_bf16(const std::uint16_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
inline Vec load_f16(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

inline Vec add(Vec a, Vec b) {
  return {_mm256_add_ps(a.v, b.v)};
}
inline Vec mul(Vec a, Vec b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
inline Vec div(Vec a, Vec b) {
  return {_mm256_div_ps(a.v, b.v)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
inline Vec min(Vec a, Vec b) {
  return {_mm256_min_ps(a.v, b.v)};
}  ///< b where either is NaN
inline Vec max(Vec a, Vec b) {
  return {_mm256_max_ps(a.v, b.v)};
}  ///< b where either is NaN
inline Vec round(Vec a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

inline __m256 power_of_two(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
/// a·2^n for integers n in -252…254: in two steps, so that the power itself neither overflows nor
/// vanishes.
inline Vec scale_by_power_of_two(Vec a, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, power_of_two(half)),
                        power_of_two(_mm256_sub_epi32(whole, half)))};
}

/// Pairwise, the same tree every time.
inline float sum(Vec a) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
inline float largest(Vec a) {
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

/// rows[i] lane j ↔ rows[j] lane i.
inline void transpose(Vec (&rows)[kLanes]) {
  __m256 t[8];
  __m256 u[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(rows[2 * i].v, rows[2 * i + 1].v);
    t[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i].v, rows[2 * i + 1].v);
  }
  for (int i = 0; i < 2; ++i) {
    u[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
    u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    rows[i + 4].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

}  // namespace
}  // namespace rarefy::simd

#include "ops/simd/exp.h"  // IWYU pragma: export
