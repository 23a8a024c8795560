// Strips of bitmap tiles times many tokens on AMX: panels of two strips by a range of K are decoded
// to scratch in L2, each while the one before is multiplied. Every tile of K may be there, or those
// of a list for each pair of strips.
#pragma once

#include "ops/spmm/cpu/bitmap_gemm.h"
#include "ops/spmm/cpu/strip_panels.h"
#include "ops/spmm/scratch.h"

namespace rarefy::strip {

/// Where the tiles of a weight lie: those of a strip follow one another from its offset on.
struct TileStrips {
  const std::byte* stream;
  const std::uint64_t* offsets;  ///< One a strip.
  std::int64_t tiles;            ///< Of 32 columns, along K.
  /// Of strips 2p and 2p + 1 there are the tiles columns[pair_offsets[p] … pair_offsets[p + 1]),
  /// rising; nullptr: all.
  const std::int64_t* pair_offsets = nullptr;
  const std::int32_t* columns = nullptr;
};

/// One thread's strips for a set of tokens.
class BitmapPanels {
 public:
  BitmapPanels(const TileStrips& a, const Activations& x)
      : a_(a),
        x_(x),
        range_tiles_(panel_range_tiles(x, a.tiles, range_bytes(x.token_tiles, x.parts))) {}

  /// Strips [begin, end); with lists, `begin` is even. Calls store(first, last, sums) when those
  /// strips are done, from the first to the last.
  template <class Store>
  void run(std::int64_t begin, std::int64_t end, Store&& store) {
    // With 1 MiB, sums and activations of a range do not always both stay in L2: up to 12 % slower.
    constexpr std::int64_t kSumBytes = 512 << 10;
    for_each_round(
        x_, begin, end, kSumBytes, kStripsAStore, [&](std::int64_t first, std::int64_t last) {
          Scratch sums(huge_page_bytes(static_cast<std::size_t>((last - first) * strip_floats(x_)) *
                                       sizeof(float)));
          run_round(first, last, sums.as<float>());
          store(first, last, sums.as<float>());
        });
  }

 private:
  /// Some tiles of a pair within one range of K.
  struct Panel {
    std::int64_t strip;  ///< The upper one, counted from the first of the round.
    std::int64_t first;  ///< Tile of K, or place in the list of columns.
    std::int32_t tiles;
    bool add;
  };

  struct Strip {
    const std::byte* next;  ///< Tile to be decoded.
    bool begun;             ///< Whether its pair has sums; of the upper strip.
  };

  void run_round(std::int64_t begin, std::int64_t end, float* sums);
  std::int64_t list_panels(std::int64_t begin, std::int64_t end, float* sums, Strip* state,
                           Panel* panels) const;
  [[nodiscard]] Unit unit_of(const Panel& panel, const BitmapPanel& decoded, float* sums) const;

  const TileStrips& a_;
  const Activations& x_;
  std::int64_t range_tiles_;
};

}  // namespace rarefy::strip
