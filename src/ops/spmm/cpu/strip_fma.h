// Strips with vector multiply-adds, for any instruction set: vectors of 16 outputs' weights for one
// column times activations, for as many strips and tokens as have their sums in registers.
//
// To be included by ISA files only, after a `Vector` of 16 floats: everything here has internal
// linkage, so that no copy compiled for one CPU can stand in for another.
#pragma once

#include <algorithm>
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

/// Columns that several strips take at once: the weights of four strips are 32 KiB of f32 then, and
/// stay in L1 while all tokens go past.
constexpr std::int64_t kChunkColumns = 128;

/// Part of a unit: columns [first, last) of blocks [begin, end); not all columns only if there is
/// one block.
struct Chunk {
  std::int32_t begin, end;
  std::int64_t first, last;
};

/// The chunk that begins where `from` ends; empty behind the last.
inline Chunk next_chunk(const Unit& u, const Chunk& from) {
  if (u.width > kChunkColumns) {
    const bool same = from.begin < u.blocks && from.last < u.width;
    const std::int32_t block = same ? from.begin : from.end;
    const std::int64_t first = same ? from.last : 0;
    return {block, std::min(u.blocks, block + 1), first, std::min(u.width, first + kChunkColumns)};
  }
  const auto blocks = static_cast<std::int32_t>(std::max<std::int64_t>(1, kChunkColumns / u.width));
  return {from.end, std::min(u.blocks, from.end + blocks), 0, u.width};
}
inline Chunk first_chunk(const Unit& u) {
  return next_chunk(u, {0, 0, 0, u.width});
}

/// Asks L2 for the weights of a chunk, a share at a time.
class ReadAhead {
 public:
  ReadAhead(const Unit& u, const Chunk& chunk, std::int64_t column_bytes, std::int64_t shares)
      : strips_(u.strips), stride_(u.strip_stride) {
    if (chunk.begin >= chunk.end) return;
    at_ = u.values + chunk.begin * u.block_stride + chunk.first * column_bytes;
    // Blocks lie one behind the other, all strips of each together; a dense strip lies alone.
    std::int64_t bytes = (chunk.last - chunk.first) * column_bytes;
    if (chunk.end - chunk.begin > 1) {
      bytes = (chunk.end - chunk.begin) * u.block_stride;
      strips_ = 1;
    }
    left_ = bytes / 64;
    share_ = (left_ + shares - 1) / shares;
  }
  void read_share() {
    for (std::int64_t i = std::min(share_, left_); i > 0; --i, --left_, at_ += 64) {
      for (std::int32_t s = 0; s < strips_; ++s) __builtin_prefetch(at_ + s * stride_, 0, 2);
    }
  }

 private:
  const std::byte* at_ = nullptr;
  std::int32_t strips_;
  std::int64_t stride_, left_ = 0, share_ = 0;
};

/// Tokens [token, token + kTokens) of a tile times kStrips strips, for a chunk.
template <class Vector, template <class> class Weights, int kStrips, int kTokens>
void run_tokens(const Unit& u, const Chunk& chunk, const Activations& x, std::int32_t tile,
                int token, bool add) {
  using W = Weights<Vector>;
  // Few tokens leave the adders waiting for one another: even and odd columns then sum apart.
  constexpr int kChains = kStrips * kTokens <= 4 ? 2 : 1;
  Vector sums[kChains][kStrips][kTokens];
  float* out = u.sums + tile * std::int64_t{kSumTileFloats} + token * kOutputs;
  const std::int64_t out_stride = std::int64_t{x.token_tiles} * kSumTileFloats;
  for (int s = 0; s < kStrips; ++s) {
    for (int t = 0; t < kTokens; ++t) {
      for (int chain = 1; chain < kChains; ++chain) sums[chain][s][t] = Vector::zero();
      sums[0][s][t] = add ? Vector::load(out + s * out_stride + t * kOutputs) : Vector::zero();
    }
  }

  const auto* tokens = static_cast<const float*>(x.data) + tile * x.padded_k * x.tokens + token;
  for (std::int32_t i = chunk.begin; i < chunk.end; ++i) {
    const std::byte* w = u.values + i * u.block_stride + chunk.first * W::kColumnBytes;
    const std::int64_t k =
        u.first_k + chunk.first + (u.columns != nullptr ? u.columns[i] * u.width : 0);
    const float* a = tokens + k * x.tokens;
    const auto column = [&](int chain, auto&& weights) {
      Vector weight[kStrips];
      for (int s = 0; s < kStrips; ++s) weight[s] = weights(w + s * u.strip_stride);
      for (int t = 0; t < kTokens; ++t) {
        for (int s = 0; s < kStrips; ++s) sums[chain][s][t].add_product(weight[s], a[t]);
      }
      a += x.tokens;
    };
    std::int64_t c = chunk.first;
    for (; c + 2 <= chunk.last; c += 2, w += 2 * W::kColumnBytes) {
      column(0, W::even);
      column(kChains - 1, W::odd);
    }
    if (c < chunk.last) column(0, W::even);
  }

  for (int s = 0; s < kStrips; ++s) {
    for (int t = 0; t < kTokens; ++t) {
      if constexpr (kChains == 2) sums[0][s][t].add(sums[1][s][t]);
      sums[0][s][t].store(out + s * out_stride + t * kOutputs);
    }
  }
}

/// Dispatches on the number of tokens, 1…kTokens.
template <class Vector, template <class> class Weights, int kStrips, int kTokens>
void run_up_to(const Unit& u, const Chunk& chunk, const Activations& x, std::int32_t tile,
               int token, int count, bool add) {
  if constexpr (kTokens > 0) {
    if (count == kTokens)
      return run_tokens<Vector, Weights, kStrips, kTokens>(u, chunk, x, tile, token, add);
    run_up_to<Vector, Weights, kStrips, kTokens - 1>(u, chunk, x, tile, token, count, add);
  }
}

/// A unit of kStrips strips. With more strips each broadcast activation serves more multiply-adds,
/// and fewer tokens fit into registers at once.
template <class Vector, template <class> class Weights, int kStrips>
void run_strips(const Unit& u, const Activations& x, const Unit* next) {
  constexpr int kMost = std::min(Vector::kMaxTokens, Vector::kMaxSums / kStrips);
  const int parts = (x.tokens + kMost - 1) / kMost;
  const std::int64_t column_bytes = Weights<Vector>::kColumnBytes;
  if (u.blocks == 0 && !u.add)
    std::fill_n(u.sums, u.strips * x.token_tiles * std::int64_t{kSumTileFloats}, 0.0F);
  bool add = u.add;
  for (Chunk chunk = first_chunk(u); chunk.begin < chunk.end;) {
    const Chunk after = next_chunk(u, chunk);
    const bool last = after.begin >= after.end;
    const std::int64_t shares = std::int64_t{x.token_tiles} * parts;
    ReadAhead ahead = last && next != nullptr
                          ? ReadAhead(*next, first_chunk(*next), column_bytes, shares)
                          : ReadAhead(u, after, column_bytes, shares);
    for (std::int32_t tile = 0; tile < x.token_tiles; ++tile) {
      for (int part = 0; part < parts; ++part) {
        const int token = x.tokens * part / parts;
        const int count = x.tokens * (part + 1) / parts - token;
        ahead.read_share();
        run_up_to<Vector, Weights, kStrips, kMost>(u, chunk, x, tile, token, count, add);
      }
    }
    chunk = after;
    add = true;
  }
}

template <class Vector, template <class> class Weights>
void run_unit(const Unit& u, const Activations& x, const Unit* next) {
  if constexpr (Vector::kMaxSums >= 24) {
    if (u.strips == 4) return run_strips<Vector, Weights, 4>(u, x, next);
    if (u.strips == 2) return run_strips<Vector, Weights, 2>(u, x, next);
  }
  run_strips<Vector, Weights, 1>(u, x, next);
}

}  // namespace
}  // namespace rarefy::strip
