// The kernels of SwiGLU and softmax over the Vec of the including file.
#pragma once

#include <cstdint>

namespace rarefy::activation {
namespace {

using simd::kLanes;
using simd::Vec;

// Builtins instead of <cmath> and <limits>: an inline function of the standard library, compiled
// here for this instruction set, could be the copy that the linker keeps for everyone.
constexpr float kNothing = -__builtin_inff();

inline Vec silu_times(Vec gate, Vec up) {
  const Vec one = simd::broadcast(1.0F);
  const Vec below = simd::add(one, simd::exp(simd::mul(gate, simd::broadcast(-1.0F))));
  return simd::mul(simd::div(gate, below), up);
}

inline void swiglu_row(const float* gate, const float* up, float* y, std::int64_t width) {
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes)
    simd::store(y + i, silu_times(simd::load(gate + i), simd::load(up + i)));
  if (i < width) {
    const int rest = static_cast<int>(width - i);
    simd::store_first(
        y + i, silu_times(simd::load_first(gate + i, rest), simd::load_first(up + i, rest)), rest);
  }
}

inline float largest_of(const float* x, std::int64_t width) {
  Vec most = simd::broadcast(kNothing);
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) most = simd::max(simd::load(x + i), most);
  float result = simd::largest(most);
  for (; i < width; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

/// Σ exp(x - shift), and the terms themselves to `y` unless it is null.
inline float exponentials(const float* x, float shift, float* y, std::int64_t width) {
  const Vec minus = simd::broadcast(-shift);
  Vec total = simd::broadcast(0.0F);
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vec term = simd::exp(simd::add(simd::load(x + i), minus));
    total = simd::add(total, term);
    if (y != nullptr) simd::store(y + i, term);
  }
  float result = simd::sum(total);
  if (i < width) {
    const int rest = static_cast<int>(width - i);
    float tail[kLanes];
    simd::store(tail, simd::exp(simd::add(simd::load_first(x + i, rest), minus)));
    for (int j = 0; j < rest; ++j) result += tail[j];
    for (int j = 0; y != nullptr && j < rest; ++j) y[i + j] = tail[j];
  }
  return result;
}

inline void softmax_row(const float* x, float* y, std::int64_t width) {
  const float most = largest_of(x, width);
  if (most == kNothing && !__builtin_isnan(exponentials(x, 0, y, width))) {
    for (std::int64_t i = 0; i < width; ++i) y[i] = 0.0F;
    return;
  }
  const float total = exponentials(x, most, y, width);
  for (std::int64_t i = 0; i < width; ++i) y[i] /= total;
}

inline double log_sum_exp_row(const float* x, std::int64_t width) {
  const float most = largest_of(x, width);
  if (most == kNothing) return double{most};
  return __builtin_log(double{exponentials(x, most, nullptr, width)}) + double{most};
}

}  // namespace
}  // namespace rarefy::activation
