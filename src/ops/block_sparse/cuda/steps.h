// What a product of a block-sparse weight reads, in what order: made once for a pattern, walked by
// the kernels on every call (pieces.cuh).
#pragma once

#include <cstdint>
#include <vector>

#include "rarefy/block_sparse.h"

namespace rarefy::gpu {

inline constexpr int kSlab = 64;  ///< Inputs of a step.

/// How a kernel cuts its outputs, and the blocks.
struct StepShape {
  bool transposed = false;
  int features = 128;    ///< Outputs of a group: what a block of the grid sums up at once.
  int most_pieces = 64;  ///< Of a step; a slab with more takes several.
};

/// Outputs and inputs of a piece: a block's, but 64 at most.
struct PieceShape {
  int out = 0, in = 0;
  [[nodiscard]] int across() const { return kSlab / in; }
};
PieceShape piece_shape(const BlockPattern& pattern, bool transposed);

/// As in device code.
struct Step {
  std::uint32_t slab, first, mask, more;
};

struct Steps {
  std::vector<Step> steps;
  std::vector<std::uint32_t> step_begin;  ///< Of each group, and the end.
  std::vector<std::uint32_t> pieces;      ///< row · 2 + column / 64
  std::vector<std::int32_t> strips;       ///< First output of each strip; -1: there is none.
  std::vector<double> costs;              ///< Of each group, relative.
};

/// The steps of all groups; deterministic. Throws `Error` (kUnsupported) for weights of 2³¹ inputs
/// or rows of blocks.
Steps make_steps(const BlockPattern& pattern, const StepShape& shape);

/// A tile of the result, as in device code.
struct Tile {
  std::uint32_t group, tokens;
};
struct TileLists {
  std::vector<Tile> tiles;
  std::vector<std::uint32_t> begin;  ///< Of each worker, and the end.
};

/// All tiles of `token_tiles` × groups handed out to `workers`: tokens by tokens, so that few slabs
/// are in use at a time, and within a round the dearest group to whoever has least so far. Without
/// workers one list, in that order.
TileLists hand_out_tiles(const Steps& steps, std::int64_t token_tiles, std::int64_t workers);

}  // namespace rarefy::gpu
