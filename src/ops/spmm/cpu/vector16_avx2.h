// 16 floats as two AVX2 registers, for the kernels that are written once for every instruction set.
// Internal linkage: each ISA file has its own.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace rarefy {
namespace {

struct Vector256x2 {
  static constexpr int kMaxTokens = 6;
  static constexpr int kMaxSums = 6;
  static constexpr int kVisitVectors = 4;  ///< Sums of rows that csb_visits.h takes together.
  __m256 low, high;
  static float half_to_float(std::uint16_t bits) { return _cvtsh_ss(bits); }
  static Vector256x2 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vector256x2 load(const void* p) {
    const auto* f = static_cast<const float*>(p);
    return {_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
  }
  static Vector256x2 load_f16(const void* p) {
    const auto* h = static_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
  }
  static Vector256x2 load_bf16_even(const void* p) {
    const auto* pairs = static_cast<const __m256i*>(p);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(pairs), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(pairs + 1), 16))};
  }
  static Vector256x2 load_bf16_odd(const void* p) {
    const auto* pairs = static_cast<const __m256i*>(p);
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xFFFF0000U));
    return {_mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(pairs), mask)),
            _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(pairs + 1), mask))};
  }
  void add_product(const Vector256x2& w, const float& x) {
    const __m256 scale = _mm256_broadcast_ss(&x);
    low = _mm256_fmadd_ps(w.low, scale, low);
    high = _mm256_fmadd_ps(w.high, scale, high);
  }
  void add(const Vector256x2& other) {
    low = _mm256_add_ps(low, other.low);
    high = _mm256_add_ps(high, other.high);
  }
  void add_products(const Vector256x2& a, const Vector256x2& b) {
    low = _mm256_fmadd_ps(a.low, b.low, low);
    high = _mm256_fmadd_ps(a.high, b.high, high);
  }
  [[nodiscard]] float sum() const {
    const __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
  }
  void store(float* p) const {
    _mm256_storeu_ps(p, low);
    _mm256_storeu_ps(p + 8, high);
  }
};

}  // namespace
}  // namespace rarefy
