// Products of strips and token tiles in AMX registers, and what happens beside them.
//
// To be included by ISA files only: everything here has internal linkage.
#pragma once

#include <immintrin.h>

#include <utility>

#include "ops/spmm/cpu/strip_engine.h"

namespace rarefy::strip {
namespace {

constexpr std::int64_t kLine = 64;

// GCC's intrinsics take literal register numbers only; these take template arguments. The memory
// clobbers keep loads behind the stores of scratch that they read.
template <int kTile>
inline void load(const void* from) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(kLine), "i"(kTile) : "memory");
}
template <int kTile>
inline void store(void* to) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(kLine), "i"(kTile) : "memory");
}
template <int kTile>
inline void zero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kSum, int kTokens, int kWeights>
inline void multiply() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kTokens),
                   "i"(kWeights));
}

template <int kCount, class Body>
[[gnu::always_inline]] inline void unrolled(Body&& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, kCount>{});
}

/// kStrips strips by kTokenTiles token tiles: kStrips·kTokenTiles ≤ 4 tiles of sums in registers
/// 0-3, activations in 4 and 5, weights in 6 and 7. The roles are fixed because the shape of a
/// register is: a tile of activations has as many rows as there are tokens.
template <int kStrips, int kTokenTiles>
struct Registers {
  static constexpr int sum(int s, int t) { return s * kTokenTiles + t; }
  static constexpr int tokens(int t) { return 4 + t % 2; }
  static constexpr int weights(int s) { return 6 + s % 2; }
};

/// One tile of k: loads what is shared first, then each product follows its last operand.
template <int kStrips, int kTokenTiles, int kParts>
[[gnu::always_inline]] inline void step(const std::byte* weights, std::int64_t strip_stride,
                                        const std::byte* tokens) {
  using R = Registers<kStrips, kTokenTiles>;
  if constexpr (kStrips == 4) {
    unrolled<kParts>([&](auto part) __attribute__((always_inline)) {
      load<R::tokens(0)>(tokens + part * kTileBytes);
      unrolled<kStrips>([&](auto s) __attribute__((always_inline)) {
        load<R::weights(s)>(weights + s * strip_stride);
        multiply<R::sum(s, 0), R::tokens(0), R::weights(s)>();
      });
    });
  } else {
    unrolled<kStrips>([&](auto s) __attribute__((always_inline)) {
      load<R::weights(s)>(weights + s * strip_stride);
    });
    unrolled<kParts>([&](auto part) __attribute__((always_inline)) {
      unrolled<kTokenTiles>([&](auto t) __attribute__((always_inline)) {
        load<R::tokens(t)>(tokens + (t * kParts + part) * kTileBytes);
        unrolled<kStrips>([&](auto s) __attribute__((always_inline)) {
          multiply<R::sum(s, t), R::tokens(t), R::weights(s)>();
        });
      });
    });
  }
}

/// All blocks of a unit for token tiles [first, first + kTokenTiles).
template <int kStrips, int kTokenTiles, int kParts, class Side>
void run_tiles(const Unit& u, const Activations& x, std::int32_t first, Side& side) {
  using R = Registers<kStrips, kTokenTiles>;
  float* sums = u.sums + first * kSumTileFloats;
  const std::int64_t strip_sums = std::int64_t{x.token_tiles} * kSumTileFloats;
  unrolled<kStrips>([&](auto s) {
    unrolled<kTokenTiles>([&](auto t) {
      if (u.add) {
        load<R::sum(s, t)>(sums + s * strip_sums + t * kSumTileFloats);
      } else {
        zero<R::sum(s, t)>();
      }
    });
  });

  const std::int64_t k_stride = std::int64_t{x.token_tiles} * kParts * kTileBytes;
  const auto* tokens =
      static_cast<const std::byte*>(x.data) + std::int64_t{first} * kParts * kTileBytes;
  const std::int64_t tiles = u.width / kTileK;
  for (std::int32_t i = 0; i < u.blocks; ++i) {
    const std::byte* w = u.values + i * u.block_stride;
    const std::int64_t k = u.first_k + (u.columns != nullptr ? u.columns[i] * u.width : 0);
    const std::byte* a = tokens + k / kTileK * k_stride;
    for (std::int64_t j = 0; j < tiles; ++j, w += kTileBytes, a += k_stride) {
      step<kStrips, kTokenTiles, kParts>(w, u.strip_stride, a);
      side.step();
    }
  }

  unrolled<kStrips>([&](auto s) {
    unrolled<kTokenTiles>(
        [&](auto t) { store<R::sum(s, t)>(sums + s * strip_sums + t * kSumTileFloats); });
  });
}

/// Token tiles that are multiplied at once.
constexpr std::int32_t group_of(std::int32_t strips) {
  return 4 / strips;
}

template <int kStrips, int kParts, class Side>
void run_strips(const Unit& u, const Activations& x, Side& side) {
  constexpr int kGroup = group_of(kStrips);
  for (std::int32_t first = 0; first < x.token_tiles; first += kGroup) {
    side.begin_pass();
    switch (x.token_tiles - first) {
      case 1:
        run_tiles<kStrips, 1, kParts>(u, x, first, side);
        break;
      case 2:
        run_tiles < kStrips, kGroup<2 ? kGroup : 2, kParts>(u, x, first, side);
        break;
      case 3:
        run_tiles < kStrips, kGroup<3 ? kGroup : 3, kParts>(u, x, first, side);
        break;
      default:
        run_tiles<kStrips, kGroup, kParts>(u, x, first, side);
    }
  }
}

/// One unit. Token tiles pass over its weights in groups: side.begin_pass() comes before each pass,
/// side.step() after every tile of k.
template <class Side>
void run_unit(const Unit& unit, const Activations& x, Side& side) {
  switch (unit.strips * 2 + (x.parts - 1)) {
    case 2:
      return run_strips<1, 1>(unit, x, side);
    case 3:
      return run_strips<1, 2>(unit, x, side);
    case 4:
      return run_strips<2, 1>(unit, x, side);
    case 5:
      return run_strips<2, 2>(unit, x, side);
    case 8:
      return run_strips<4, 1>(unit, x, side);
    default:
      return run_strips<4, 2>(unit, x, side);
  }
}

}  // namespace
}  // namespace rarefy::strip
