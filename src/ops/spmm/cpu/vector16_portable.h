// 16 floats in plain C++, for the kernels that are written once for every instruction set. Internal
// linkage: each ISA file has its own.
#pragma once

#include <cstdint>
#include <cstring>

#include "rarefy/dtype.h"

namespace rarefy {
namespace {

struct PortableVector {
  static constexpr int kMaxTokens = 2;  // SSE2 has 16 registers of 4 floats.
  static constexpr int kMaxSums = 2;
  static constexpr int kVisitVectors = 1;  ///< Sums of rows that csb_visits.h takes together.
  float v[16];
  static float half_to_float(std::uint16_t bits) { return to_float(Float16{bits}); }
  static PortableVector zero() { return {}; }
  static PortableVector load(const void* p) {
    PortableVector x;
    std::memcpy(x.v, p, sizeof x.v);
    return x;
  }
  static PortableVector load_f16(const void* p) {
    Float16 h[16];
    std::memcpy(h, p, sizeof h);
    PortableVector x;
    for (int i = 0; i < 16; ++i) x.v[i] = to_float(h[i]);
    return x;
  }
  static PortableVector load_bf16_even(const void* p) { return load_bf16(p, 0); }
  static PortableVector load_bf16_odd(const void* p) { return load_bf16(p, 1); }
  static PortableVector load_bf16(const void* p, int column) {
    BFloat16 pairs[16][2];
    std::memcpy(pairs, p, sizeof pairs);
    PortableVector x;
    for (int i = 0; i < 16; ++i) x.v[i] = to_float(pairs[i][column]);
    return x;
  }
  void add_product(const PortableVector& w, float x) {
    for (int i = 0; i < 16; ++i) v[i] += w.v[i] * x;
  }
  void add(const PortableVector& other) {
    for (int i = 0; i < 16; ++i) v[i] += other.v[i];
  }
  void add_products(const PortableVector& a, const PortableVector& b) {
    for (int i = 0; i < 16; ++i) v[i] += a.v[i] * b.v[i];
  }
  [[nodiscard]] float sum() const {
    float total = 0;
    for (int i = 0; i < 16; ++i) total += v[i];
    return total;
  }
  void store(float* p) const { std::memcpy(p, v, sizeof v); }
};

}  // namespace
}  // namespace rarefy
