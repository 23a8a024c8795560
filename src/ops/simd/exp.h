// exp(x) on any Vec of this folder; the vec_*.h headers include it after their Vec.
//
// exp(x) = 2^n · e^r with n = round(x / ln 2), r = x - n·ln 2 in two parts (|r| <= 0.3466), e^r by
// the degree-5 minimax polynomial of Cephes' expf. Largest error found over all floats: 2 ulp
// (tests/ops/simd_test.cc). Results below 2^-149 become 0, above the largest float infinity; NaN
// stays NaN.
#pragma once

namespace rarefy::simd {
namespace {

inline Vec exp(Vec x) {
  // Beyond these every result is 0 or infinity; the order of operands lets NaN through.
  x = min(broadcast(90.0F), max(broadcast(-105.0F), x));
  const Vec n = round(mul(x, broadcast(1.44269504F)));
  const Vec r = fma(n, broadcast(2.12194440e-4F), fma(n, broadcast(-0.693359375F), x));
  Vec p = broadcast(1.9875691500e-4F);
  p = fma(p, r, broadcast(1.3981999507e-3F));
  p = fma(p, r, broadcast(8.3334519073e-3F));
  p = fma(p, r, broadcast(4.1665795894e-2F));
  p = fma(p, r, broadcast(1.6666665459e-1F));
  p = fma(p, r, broadcast(5.0000001201e-1F));
  p = add(fma(p, mul(r, r), r), broadcast(1.0F));
  return scale_by_power_of_two(p, n);
}

}  // namespace
}  // namespace rarefy::simd
