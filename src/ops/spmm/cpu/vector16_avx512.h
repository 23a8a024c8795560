// 16 floats as one AVX-512 register, for the kernels that are written once for every instruction
// set. Internal linkage: each ISA file has its own.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace rarefy {
namespace {

struct Vector512 {
  static constexpr int kMaxTokens = 16;
  static constexpr int kMaxSums = 24;
  static constexpr int kVisitVectors = 8;  ///< Sums of rows that csb_visits.h takes together.
  __m512 v;
  static float half_to_float(std::uint16_t bits) { return _cvtsh_ss(bits); }
  static Vector512 zero() { return {_mm512_setzero_ps()}; }
  static Vector512 load(const void* p) { return {_mm512_loadu_ps(p)}; }
  static Vector512 load_f16(const void* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
  }
  static Vector512 load_bf16_even(const void* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
  }
  static Vector512 load_bf16_odd(const void* p) {
    return {_mm512_castsi512_ps(
        _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int>(0xFFFF0000U))))};
  }
  void add_product(const Vector512& w, const float& x) {
    v = _mm512_fmadd_ps(w.v, _mm512_set1_ps(x), v);
  }
  void add(const Vector512& other) { v = _mm512_add_ps(v, other.v); }
  void add_products(const Vector512& a, const Vector512& b) { v = _mm512_fmadd_ps(a.v, b.v, v); }
  [[nodiscard]] float sum() const { return _mm512_reduce_add_ps(v); }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
};

}  // namespace
}  // namespace rarefy
