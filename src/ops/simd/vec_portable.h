// Four floats in the vector extension of GCC and Clang: whatever the baseline offers.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "rarefy/dtype.h"

namespace rarefy::simd {
namespace {

using Float4 = float __attribute__((vector_size(16)));
using Int4 = std::int32_t __attribute__((vector_size(16)));

struct Vec {
  Float4 v;
};

inline constexpr int kLanes = 4;
/// Rows × vectors of a register tile: 8 accumulators of 16 registers.
inline constexpr int kTileRows = 4;
inline constexpr int kTileVectors = 2;

inline Vec broadcast(float x) {
  return {Float4{x, x, x, x}};
}
inline Vec load(const float* p) {
  Vec x;
  std::memcpy(&x.v, p, sizeof x.v);
  return x;
}
inline void store(float* p, Vec x) {
  std::memcpy(p, &x.v, sizeof x.v);
}
/// The first `count` < kLanes lanes; the others are zero, or not written.
inline Vec load_first(const float* p, int count) {
  Vec x = broadcast(0.0F);
  for (int i = 0; i < count; ++i) x.v[i] = p[i];
  return x;
}
inline void store_first(float* p, Vec x, int count) {
  for (int i = 0; i < count; ++i) p[i] = x.v[i];
}
inline Vec load_bf16(const std::uint16_t* p) {
  const auto bits = [&](int i) { return static_cast<std::int32_t>(std::uint32_t{p[i]} << 16); };
  return {std::bit_cast<Float4>(Int4{bits(0), bits(1), bits(2), bits(3)})};
}
inline Vec load_f16(const std::uint16_t* p) {
  const auto value = [&](int i) { return to_float(Float16{p[i]}); };
  return {Float4{value(0), value(1), value(2), value(3)}};
}

inline Vec add(Vec a, Vec b) {
  return {a.v + b.v};
}
inline Vec mul(Vec a, Vec b) {
  return {a.v * b.v};
}
inline Vec div(Vec a, Vec b) {
  return {a.v / b.v};
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return {a.v * b.v + c.v};
}
inline Vec min(Vec a, Vec b) {
  return {a.v < b.v ? a.v : b.v};
}  ///< b where either is NaN
inline Vec max(Vec a, Vec b) {
  return {a.v > b.v ? a.v : b.v};
}  ///< b where either is NaN
/// To the nearest integer for |a| < 2^22: adding 1.5·2^23 leaves no bits for a fraction.
inline Vec round(Vec a) {
  const Float4 magic = broadcast(12582912.0F).v;
  return {(a.v + magic) - magic};
}

inline Float4 power_of_two(Int4 n) {
  return std::bit_cast<Float4>((n + 127) << 23);
}
/// a·2^n for integers n in -252…254: in two steps, so that the power itself neither overflows nor
/// vanishes.
inline Vec scale_by_power_of_two(Vec a, Vec n) {
  // The low bits of n + 1.5·2^23 are n; unlike a conversion this is defined for NaN too.
  const Int4 whole = std::bit_cast<Int4>(n.v + broadcast(12582912.0F).v) - 0x4B400000;
  const Int4 half = whole >> 1;
  return {a.v * power_of_two(half) * power_of_two(whole - half)};
}

/// Pairwise, the same tree every time.
inline float sum(Vec a) {
  return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
}
inline float largest(Vec a) {
  const float x = a.v[0] > a.v[2] ? a.v[0] : a.v[2];
  const float y = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
  return x > y ? x : y;
}

/// rows[i] lane j ↔ rows[j] lane i.
inline void transpose(Vec (&rows)[kLanes]) {
  const Float4 a = __builtin_shufflevector(rows[0].v, rows[1].v, 0, 4, 1, 5);
  const Float4 b = __builtin_shufflevector(rows[0].v, rows[1].v, 2, 6, 3, 7);
  const Float4 c = __builtin_shufflevector(rows[2].v, rows[3].v, 0, 4, 1, 5);
  const Float4 d = __builtin_shufflevector(rows[2].v, rows[3].v, 2, 6, 3, 7);
  rows[0].v = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  rows[1].v = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  rows[2].v = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  rows[3].v = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

}  // namespace
}  // namespace rarefy::simd

#include "ops/simd/exp.h"  // IWYU pragma: export
