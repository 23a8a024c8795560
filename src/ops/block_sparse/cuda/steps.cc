#include "ops/block_sparse/cuda/steps.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "base/check.h"
#include "ops/block_sparse/cuda/strip_order.h"
#include "ops/block_sparse/pattern.h"

namespace rarefy::gpu {
namespace {

constexpr int kMostPiece = 64;

/// A stored piece of a group: which slab, which bit of the mask, where.
struct Stored {
  std::uint32_t slab, bit, code;
};

struct Cut {
  BlockGroups groups;
  PieceShape piece;
  bool transposed;
  int block_rows;

  [[nodiscard]] std::int64_t strips() const { return groups.outputs / piece.out; }

  /// The slabs that each strip needs.
  [[nodiscard]] SlabsOfStrips slabs() const {
    SlabsOfStrips found(static_cast<std::size_t>(strips()));
    for (std::size_t strip = 0; strip < found.size(); ++strip) {
      const std::int64_t group = static_cast<std::int64_t>(strip) / (groups.out / piece.out);
      for (std::int32_t b = groups.offsets[group]; b < groups.offsets[group + 1]; ++b)
        for (std::int64_t in = 0; in < groups.in; in += piece.in)
          found[strip].push_back(
              static_cast<std::uint32_t>((groups.inputs[b] * groups.in + in) / kSlab));
    }
    return found;
  }

  /// All pieces of some strips, in order of slab and bit.
  [[nodiscard]] std::vector<Stored> stored(std::span<const std::int64_t> some) const {
    std::vector<Stored> found;
    const std::int64_t of_block = groups.out / piece.out;
    for (std::size_t at = 0; at < some.size(); ++at) {
      const std::int64_t strip = some[at];
      const std::int64_t group = strip / of_block;
      const std::int64_t out = strip % of_block * piece.out;  // Within the block.
      for (std::int32_t b = groups.offsets[group]; b < groups.offsets[group + 1]; ++b) {
        const std::int64_t row = groups.place(b) * block_rows;
        for (std::int64_t in = 0; in < groups.in; in += piece.in) {
          const std::int64_t input = groups.inputs[b] * groups.in + in;
          const std::int64_t y = row + (transposed ? in : out);
          const std::int64_t x = transposed ? out : in;
          found.push_back(
              {static_cast<std::uint32_t>(input / kSlab),
               static_cast<std::uint32_t>(static_cast<std::int64_t>(at) * piece.across() +
                                          input % kSlab / piece.in),
               static_cast<std::uint32_t>(y * 2 + x / kMostPiece)});
        }
      }
    }
    std::sort(found.begin(), found.end(), [](const Stored& a, const Stored& b) {
      return a.slab != b.slab ? a.slab < b.slab : a.bit < b.bit;
    });
    return found;
  }
};

/// @param strips `together`, or fewer at the end.
void add_group(const Cut& cut, const StepShape& shape, std::span<const std::int64_t> strips,
               std::size_t together, Steps& all) {
  for (std::size_t i = 0; i < together; ++i)
    all.strips.push_back(i < strips.size() ? static_cast<std::int32_t>(strips[i] * cut.piece.out)
                                           : -1);
  int in_step = shape.most_pieces;
  double cost = 1;
  for (const Stored& piece : cut.stored(strips)) {
    if (in_step == shape.most_pieces || all.steps.back().slab != piece.slab) {
      all.steps.push_back({.slab = piece.slab,
                           .first = static_cast<std::uint32_t>(all.pieces.size()),
                           .mask = 0,
                           .more = 0});
      in_step = 0;
      constexpr double kStep = 0.3;  // A step costs a little besides its products.
      cost += kStep;
    }
    Step& step = all.steps.back();
    (piece.bit < 32 ? step.mask : step.more) |= std::uint32_t{1} << piece.bit % 32;
    all.pieces.push_back(piece.code);
    ++in_step;
    ++cost;
  }
  all.step_begin.push_back(static_cast<std::uint32_t>(all.steps.size()));
  all.costs.push_back(cost);
}

}  // namespace

PieceShape piece_shape(const BlockPattern& pattern, bool transposed) {
  const int rows = std::min(pattern.block_rows, kMostPiece);
  const int columns = std::min(pattern.block_cols, kMostPiece);
  return transposed ? PieceShape{columns, rows} : PieceShape{rows, columns};
}

Steps make_steps(const BlockPattern& pattern, const StepShape& shape) {
  const Cut cut{shape.transposed ? groups_by_columns(pattern) : groups_by_rows(pattern),
                piece_shape(pattern, shape.transposed), shape.transposed, pattern.block_rows};
  constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1;  // Coordinates of the copy engine.
  if (cut.groups.inputs_total > kMost || pattern.blocks() * pattern.block_rows > kMost)
    fail(ErrorKind::kUnsupported,
         "block-sparse products on a GPU: expected fewer than 2^31 inputs and rows of blocks, got "
         "{} and {}",
         cut.groups.inputs_total, pattern.blocks() * pattern.block_rows);
  Steps all;
  all.step_begin.push_back(0);
  const auto together = static_cast<std::size_t>(shape.features / cut.piece.out);
  const std::vector<std::int64_t> order = order_strips(cut.slabs(), static_cast<int>(together));
  for (std::size_t first = 0; first < order.size(); first += together)
    add_group(cut, shape, std::span(order).subspan(first, std::min(together, order.size() - first)),
              together, all);
  return all;
}

TileLists hand_out_tiles(const Steps& steps, std::int64_t token_tiles, std::int64_t workers) {
  std::vector<std::uint32_t> dearest(steps.costs.size());
  std::iota(dearest.begin(), dearest.end(), 0U);
  std::stable_sort(dearest.begin(), dearest.end(), [&](std::uint32_t a, std::uint32_t b) {
    return steps.costs[a] > steps.costs[b];
  });
  std::vector<Tile> all;
  for (std::int64_t t = 0; t < token_tiles; ++t)
    for (const std::uint32_t group : dearest) all.push_back({group, static_cast<std::uint32_t>(t)});
  if (workers == 0) {
    const auto end = static_cast<std::uint32_t>(all.size());
    return {std::move(all), {0, end}};
  }
  std::vector<std::vector<Tile>> lists(static_cast<std::size_t>(workers));
  std::vector<double> load(lists.size(), 0);
  std::vector<std::size_t> order(lists.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t round = 0; round < all.size(); round += lists.size()) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(round);
    const auto end =
        all.begin() + static_cast<std::ptrdiff_t>(std::min(round + lists.size(), all.size()));
    std::stable_sort(begin, end, [&](const Tile& a, const Tile& b) {
      return steps.costs[a.group] > steps.costs[b.group];
    });
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return load[a] < load[b]; });
    std::size_t next = 0;
    for (auto tile = begin; tile != end; ++tile, ++next) {
      lists[order[next]].push_back(*tile);
      load[order[next]] += steps.costs[tile->group];
    }
  }
  TileLists result;
  result.begin.push_back(0);
  for (const std::vector<Tile>& list : lists) {
    result.tiles.insert(result.tiles.end(), list.begin(), list.end());
    result.begin.push_back(static_cast<std::uint32_t>(result.tiles.size()));
  }
  return result;
}

}  // namespace rarefy::gpu
