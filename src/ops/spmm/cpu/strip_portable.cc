// Strips in plain C++.
#include <cstring>

#include "ops/spmm/cpu/strip_fma.h"
#include "rarefy/dtype.h"

namespace rarefy::strip {
namespace {

struct PortableVector {
  static constexpr int kMaxTokens = 2;  // SSE2 has 16 registers of 4 floats.
  float v[kOutputs];
  static PortableVector zero() { return {}; }
  static PortableVector load(const void* p) {
    PortableVector x;
    std::memcpy(x.v, p, sizeof x.v);
    return x;
  }
  static PortableVector load_f16(const void* p) {
    Float16 h[kOutputs];
    std::memcpy(h, p, sizeof h);
    PortableVector x;
    for (int i = 0; i < kOutputs; ++i) x.v[i] = to_float(h[i]);
    return x;
  }
  static PortableVector load_bf16_even(const void* p) { return load_bf16(p, 0); }
  static PortableVector load_bf16_odd(const void* p) { return load_bf16(p, 1); }
  static PortableVector load_bf16(const void* p, int column) {
    BFloat16 pairs[kOutputs][2];
    std::memcpy(pairs, p, sizeof pairs);
    PortableVector x;
    for (int i = 0; i < kOutputs; ++i) x.v[i] = to_float(pairs[i][column]);
    return x;
  }
  void add_product(const PortableVector& w, float x) {
    for (int i = 0; i < kOutputs; ++i) v[i] += w.v[i] * x;
  }
  void add(const PortableVector& other) {
    for (int i = 0; i < kOutputs; ++i) v[i] += other.v[i];
  }
  void store(float* p) const { std::memcpy(p, v, sizeof v); }
};

}  // namespace

void run_f32_portable(const Unit& unit, const Activations& x, Walker&) {
  run_unit<PortableVector, F32Weights>(unit, x);
}
void run_f16_portable(const Unit& unit, const Activations& x, Walker&) {
  run_unit<PortableVector, F16Weights>(unit, x);
}
void run_bf16_portable(const Unit& unit, const Activations& x, Walker&) {
  run_unit<PortableVector, Bf16Weights>(unit, x);
}

}  // namespace rarefy::strip
