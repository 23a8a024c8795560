// Small transpositions of f32, between the token-major matrices of callers and panels that have the
// tokens side by side. In vectors of four floats, which every CPU has and every ISA file may
// inline.
#pragma once

#include <cstdint>
#include <cstring>

namespace rarefy {
namespace {

using Floats4 = float __attribute__((vector_size(16)));

inline Floats4 load4(const float* p) {
  Floats4 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store4(float* p, Floats4 v) {
  std::memcpy(p, &v, sizeof v);
}

/// to[c · to_stride + r] = from[r · from_stride + c] for `rows` × `cols` floats. Four columns of
/// `from` at a time, so that a line of `to` is filled while it is in L1.
inline void transpose_floats(const float* from, std::int64_t from_stride, std::int64_t rows,
                             std::int64_t cols, float* to, std::int64_t to_stride) {
  const std::int64_t whole_rows = rows / 4 * 4;
  const std::int64_t whole_cols = cols / 4 * 4;
  for (std::int64_t c = 0; c < whole_cols; c += 4) {
    for (std::int64_t r = 0; r < whole_rows; r += 4) {
      const float* p = from + r * from_stride + c;
      const Floats4 a0 = load4(p);
      const Floats4 a1 = load4(p + from_stride);
      const Floats4 a2 = load4(p + 2 * from_stride);
      const Floats4 a3 = load4(p + 3 * from_stride);
      const Floats4 b0 = __builtin_shufflevector(a0, a1, 0, 4, 1, 5);
      const Floats4 b1 = __builtin_shufflevector(a2, a3, 0, 4, 1, 5);
      const Floats4 b2 = __builtin_shufflevector(a0, a1, 2, 6, 3, 7);
      const Floats4 b3 = __builtin_shufflevector(a2, a3, 2, 6, 3, 7);
      float* q = to + c * to_stride + r;
      store4(q, __builtin_shufflevector(b0, b1, 0, 1, 4, 5));
      store4(q + to_stride, __builtin_shufflevector(b0, b1, 2, 3, 6, 7));
      store4(q + 2 * to_stride, __builtin_shufflevector(b2, b3, 0, 1, 4, 5));
      store4(q + 3 * to_stride, __builtin_shufflevector(b2, b3, 2, 3, 6, 7));
    }
    for (std::int64_t r = whole_rows; r < rows; ++r) {
      for (std::int64_t i = c; i < c + 4; ++i) to[i * to_stride + r] = from[r * from_stride + i];
    }
  }
  for (std::int64_t c = whole_cols; c < cols; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) to[c * to_stride + r] = from[r * from_stride + c];
  }
}

}  // namespace
}  // namespace rarefy
