// Strips with vector multiply-adds, for any instruction set: a vector of 16 outputs' weights for
// one column times one activation, for up to `Vector::kMaxTokens` tokens whose sums stay in
// registers.
//
// To be included by ISA files only, after a `Vector` of 16 floats: everything here has internal
// linkage, so that no copy compiled for one CPU can stand in for another.
#pragma once

#include <cstdint>

#include "ops/spmm/cpu/strip_engine.h"

namespace rarefy::strip {
namespace {

/// What two columns of a strip look like in each dtype.
template <class Vector>
struct F32Weights {
  static constexpr std::int64_t kColumnBytes = 64;
  static Vector even(const std::byte* p) { return Vector::load(p); }
  static Vector odd(const std::byte* p) { return Vector::load(p + kColumnBytes); }
};
template <class Vector>
struct F16Weights {
  static constexpr std::int64_t kColumnBytes = 32;
  static Vector even(const std::byte* p) { return Vector::load_f16(p); }
  static Vector odd(const std::byte* p) { return Vector::load_f16(p + kColumnBytes); }
};
template <class Vector>
struct Bf16Weights {  // Pairs of columns; blocks have an even number of them.
  static constexpr std::int64_t kColumnBytes = 32;
  static Vector even(const std::byte* p) { return Vector::load_bf16_even(p); }
  static Vector odd(const std::byte* p) { return Vector::load_bf16_odd(p); }
};

template <class Vector, template <class> class Weights, int kTokens>
void run_token_tile(const Unit& u, const Activations& x, std::int32_t strip, std::int32_t tile) {
  using W = Weights<Vector>;
  // Few tokens leave the adders waiting for one another: even and odd columns then sum apart.
  constexpr int kChains = kTokens <= 4 ? 2 : 1;
  constexpr std::int64_t kAhead = 2048;
  Vector sums[kChains][kTokens];
  float* out = u.sums + (std::int64_t{strip} * x.token_tiles + tile) * kSumTileFloats;
  for (int t = 0; t < kTokens; ++t) {
    for (int chain = 1; chain < kChains; ++chain) sums[chain][t] = Vector::zero();
    sums[0][t] = u.add ? Vector::load(out + t * kOutputs) : Vector::zero();
  }

  const auto* tokens = static_cast<const float*>(x.data) + tile * x.padded_k * kTokens;
  for (std::int32_t i = 0; i < u.blocks; ++i) {
    const std::byte* w = u.values + i * u.block_stride + strip * u.strip_stride;
    const std::int64_t k = u.first_k + (u.columns != nullptr ? u.columns[i] * u.width : 0);
    const float* a = tokens + k * kTokens;
    std::int64_t c = 0;
    for (; c + 2 <= u.width; c += 2, w += 2 * W::kColumnBytes, a += 2 * kTokens) {
      if (tile == 0) {
        __builtin_prefetch(w + kAhead);
        if constexpr (W::kColumnBytes == 64) __builtin_prefetch(w + kAhead + 64);
      }
      const Vector even = W::even(w);
      const Vector odd = W::odd(w);
      for (int t = 0; t < kTokens; ++t) sums[0][t].add_product(even, a[t]);
      for (int t = 0; t < kTokens; ++t) sums[kChains - 1][t].add_product(odd, a[kTokens + t]);
    }
    if (c < u.width) {
      const Vector even = W::even(w);
      for (int t = 0; t < kTokens; ++t) sums[0][t].add_product(even, a[t]);
    }
  }

  for (int t = 0; t < kTokens; ++t) {
    if constexpr (kChains == 2) sums[0][t].add(sums[1][t]);
    sums[0][t].store(out + t * kOutputs);
  }
}

/// Dispatches on the number of tokens a tile, 1…kMaxTokens.
template <class Vector, template <class> class Weights, int kTokens = 1>
void run_tile_of(const Unit& u, const Activations& x, std::int32_t strip, std::int32_t tile) {
  if constexpr (kTokens <= Vector::kMaxTokens) {
    if (x.tokens == kTokens) return run_token_tile<Vector, Weights, kTokens>(u, x, strip, tile);
    run_tile_of<Vector, Weights, kTokens + 1>(u, x, strip, tile);
  }
}

template <class Vector, template <class> class Weights>
void run_unit(const Unit& u, const Activations& x) {
  for (std::int32_t strip = 0; strip < u.strips; ++strip) {
    for (std::int32_t tile = 0; tile < x.token_tiles; ++tile)
      run_tile_of<Vector, Weights>(u, x, strip, tile);
  }
}

}  // namespace
}  // namespace rarefy::strip
