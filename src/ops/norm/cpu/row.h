// The kernel of RMSNorm over the Vec of the including file.
#pragma once

#include <cstdint>

namespace rarefy::norm {
namespace {

using simd::kLanes;
using simd::Vec;

/// Four partial sums hide the latency of the additions; they and their lanes are added pairwise.
inline float sum_of_squares(const float* x, std::int64_t width) {
  Vec partial[4] = {simd::broadcast(0), simd::broadcast(0), simd::broadcast(0), simd::broadcast(0)};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const Vec v = simd::load(x + i + j * kLanes);
      partial[j] = simd::fma(v, v, partial[j]);
    }
  }
  for (; i + kLanes <= width; i += kLanes) {
    const Vec v = simd::load(x + i);
    partial[0] = simd::fma(v, v, partial[0]);
  }
  if (i < width) {
    const Vec v = simd::load_first(x + i, static_cast<int>(width - i));
    partial[1] = simd::fma(v, v, partial[1]);
  }
  return simd::sum(simd::add(simd::add(partial[0], partial[1]), simd::add(partial[2], partial[3])));
}

inline void rms_norm_row(const float* x, const float* weight, float eps, float* y,
                         std::int64_t width) {
  const float mean = sum_of_squares(x, width) / static_cast<float>(width);
  const float inverse = 1.0F / __builtin_sqrtf(mean + eps);
  const Vec factor = simd::broadcast(inverse);
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vec scaled = simd::mul(simd::load(x + i), factor);
    simd::store(y + i, simd::mul(scaled, simd::load(weight + i)));
  }
  if (i < width) {
    const int rest = static_cast<int>(width - i);
    const Vec scaled = simd::mul(simd::load_first(x + i, rest), factor);
    simd::store_first(y + i, simd::mul(scaled, simd::load_first(weight + i, rest)), rest);
  }
}

}  // namespace
}  // namespace rarefy::norm
