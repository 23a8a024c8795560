// Stored values as f32, one at a time, for kernels on lists of nonzeros. To be included by ISA
// files only: everything here has internal linkage.
#pragma once

#include <cstdint>

namespace rarefy {
namespace {

struct F32Values {
  using Stored = float;
  static float at(const Stored* values, std::int64_t i) { return values[i]; }
};
template <class Vector>
struct F16Values {
  using Stored = std::uint16_t;
  static float at(const Stored* values, std::int64_t i) { return Vector::half_to_float(values[i]); }
};
struct Bf16Values {
  using Stored = std::uint16_t;
  static float at(const Stored* values, std::int64_t i) {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(values[i]) << 16);
  }
};

}  // namespace
}  // namespace rarefy
