// How stored values become a Vec of ops/simd/vec_<isa>.h, which must be included first; everything
// is local to the file that does.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy {
namespace {

struct Bf16Weights {
  static constexpr int kBytes = 2;
  static simd::Vec load(const std::byte* p) {
    return simd::load_bf16(reinterpret_cast<const std::uint16_t*>(p));
  }
};
struct F16Weights {
  static constexpr int kBytes = 2;
  static simd::Vec load(const std::byte* p) {
    return simd::load_f16(reinterpret_cast<const std::uint16_t*>(p));
  }
};
struct F32Weights {
  static constexpr int kBytes = 4;
  static simd::Vec load(const std::byte* p) {
    return simd::load(reinterpret_cast<const float*>(p));
  }
};

}  // namespace
}  // namespace rarefy
