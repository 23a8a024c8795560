// What the kernels share that decode a compressed weight to panels in L2 and multiply them there on
// AMX: how K and strips are cut, and the frame around the decoding.
//
// A panel is some strips of 16 outputs by a range of K, in tiles of 16×32 bf16.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "ops/spmm/cpu/strip_activations.h"
#include "ops/spmm/cpu/strip_sums.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"

namespace rarefy::strip {

/// Tokens that are multiplied at once; more come in turns, and the weight is decoded again.
inline constexpr std::int64_t kPanelTokens = 256;
/// The same where panels are decoded beside products, which hides them whatever the range.
inline constexpr std::int64_t kManyPanelTokens = 512;
/// Activations of a range of K that, beside sums and panels, stay in a 2 MiB L2.
inline constexpr std::int64_t kPanelRangeBytes = 600 << 10;

/// Most tiles of k in a range whose activations take at most `range_bytes`, made even over K.
inline std::int64_t panel_range_tiles(const Activations& x, std::int64_t tiles,
                                      std::int64_t range_bytes) {
  constexpr std::int64_t kMostTiles = 64;
  const std::int64_t most = std::clamp<std::int64_t>(
      range_bytes / (std::int64_t{x.token_tiles} * x.parts * kTileBytes), 1, kMostTiles);
  const std::int64_t ranges = (tiles + most - 1) / most;
  return (tiles + ranges - 1) / ranges;
}

/// Floats of the sums of a strip.
inline std::int64_t strip_floats(const Activations& x) {
  return std::int64_t{x.token_tiles} * kSumTileFloats;
}

/// Calls round(first, last) for strips [begin, end), with tile registers configured: as many
/// strips at once as have `sum_bytes` of sums, in multiples of `multiple`, at least that many.
template <class Round>
void for_each_round(const Activations& x, std::int64_t begin, std::int64_t end,
                    std::int64_t sum_bytes, std::int64_t multiple, Round&& round) {
  if (begin == end) return;
  const std::int64_t strip_bytes = strip_floats(x) * std::int64_t{sizeof(float)};
  const std::int64_t strips =
      std::max<std::int64_t>(1, sum_bytes / (strip_bytes * multiple)) * multiple;
  amx_begin(x.tokens);
  for (std::int64_t s = begin; s < end; s += strips) round(s, std::min(end, s + strips));
  amx_end();
}

/// Tiles [first, first + tiles) of `strips` strips decoded to `values`, tile after tile.
inline Unit panel_unit(const std::byte* values, std::int64_t strip_stride, std::int64_t first,
                       std::int64_t tiles, std::int64_t strips, float* sums) {
  return {.values = values,
          .columns = nullptr,
          .block_stride = 0,
          .strip_stride = strip_stride,
          .width = tiles * kTileK,
          .first_k = first * kTileK,
          .blocks = 1,
          .strips = static_cast<std::int32_t>(strips),
          .sums = sums,
          .add = first > 0};
}

/// Stores the results of strips [begin, end), whose sums lie one after the other.
inline void store_all_sums(const Epilogue& epilogue, const float* sums, std::int64_t begin,
                           std::int64_t end, const Activations& x, std::int64_t n, std::int64_t m) {
  for (std::int64_t s = begin; s < end; s += kStripsAStore)
    store_sums(epilogue, sums + (s - begin) * strip_floats(x), s, std::min(kStripsAStore, end - s),
               x, n, m);
}

/// Calls multiply(x, epilogue, n) for each turn of tokens, with their activations packed.
template <class Multiply>
void for_each_turn(const SpmmArgs& args, std::int64_t tiles, ThreadPool& pool, Multiply&& multiply,
                   std::int64_t most_tokens = kPanelTokens) {
  const std::int64_t turn = turn_tokens(args.b.rows, most_tokens);
  for (std::int64_t t = 0; t < args.b.rows; t += turn) {
    const SpmmArgs part = tokens_of(args, t, std::min(args.b.rows, t + turn));
    const AmxActivations x(part.b, args.precision, tiles * kTileK, pool);
    const Epilogue epilogue(part);
    multiply(x.get(), epilogue, part.b.rows);
  }
}

/// What the costs of these kernels are counted in.
struct PanelCounts {
  /// A product of tiles takes 57 cycles where weights come from memory, 48 where they were just
  /// decoded.
  static constexpr double kProductCycles = 48;

  double tiles;     ///< Of the weight.
  double turns;     ///< Times that all of it is decoded.
  double products;  ///< Tile by tile.
  double around;    ///< Cycles of packing activations and storing results.

  explicit PanelCounts(const SpmmProblem& p, std::int64_t most_tokens = kPanelTokens)
      : tiles(std::ceil(static_cast<double>(p.m) / kOutputs) *
              std::ceil(static_cast<double>(p.k) / kTileK)),
        turns(std::ceil(static_cast<double>(p.n) / static_cast<double>(most_tokens))) {
    const double parts = amx_parts(p.activations, p.precision);
    const auto n = static_cast<double>(p.n);
    products = tiles * std::ceil(n / 16) * parts;
    around = 0.25 * n * static_cast<double>(p.k) * parts + 0.3 * n * static_cast<double>(p.m);
  }
};

}  // namespace rarefy::strip
