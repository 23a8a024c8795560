#include "ops/block_sparse/cuda/steps.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>

#include "base/check.h"
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

  /// All pieces of the strips first … first + count - 1, in order of slab and bit.
  [[nodiscard]] std::vector<Stored> stored(std::int64_t first, std::int64_t count) const {
    std::vector<Stored> found;
    const std::int64_t of_block = groups.out / piece.out;
    for (std::int64_t strip = first; strip < first + count; ++strip) {
      const std::int64_t group = strip / of_block;
      if (group >= groups.groups) break;
      const std::int64_t out = strip % of_block * piece.out;  // Within the block.
      for (std::int32_t b = groups.offsets[group]; b < groups.offsets[group + 1]; ++b) {
        const std::int64_t row = groups.place(b) * block_rows;
        for (std::int64_t in = 0; in < groups.in; in += piece.in) {
          const std::int64_t input = groups.inputs[b] * groups.in + in;
          const std::int64_t y = row + (transposed ? in : out);
          const std::int64_t x = transposed ? out : in;
          found.push_back({static_cast<std::uint32_t>(input / kSlab),
                           static_cast<std::uint32_t>((strip - first) * piece.across() +
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

/// Which slot of the ring each step of a set gets, and what its groups have used last.
class Slots {
 public:
  Slots(int groups, int slots)
      : slots_(slots),
        last_(static_cast<std::size_t>(groups * slots), -1),
        used_(static_cast<std::size_t>(groups), 0) {}

  int take(std::uint32_t needers) {
    int best = 0;
    std::int64_t best_age = -1;
    for (int slot = 0; slot < slots_; ++slot) {
      // Steps since a needer used it: of the most recent one.
      std::int64_t age = std::int64_t{1} << 40;
      for_each(needers, [&](std::size_t group) {
        const std::int64_t last =
            last_[group * static_cast<std::size_t>(slots_) + static_cast<std::size_t>(slot)];
        if (last >= 0) age = std::min(age, used_[group] - last);
      });
      if (age > best_age) {
        best_age = age;
        best = slot;
      }
    }
    for_each(needers, [&](std::size_t group) {
      last_[group * static_cast<std::size_t>(slots_) + static_cast<std::size_t>(best)] =
          used_[group]++;
    });
    return best;
  }

 private:
  template <class Body>
  static void for_each(std::uint32_t needers, Body&& body) {
    for (; needers != 0; needers &= needers - 1)
      body(static_cast<std::size_t>(std::countr_zero(needers)));
  }
  int slots_;
  std::vector<std::int64_t> last_, used_;
};

void add_set(const Cut& cut, const StepShape& shape, std::int64_t set, Steps& all) {
  const auto cluster = static_cast<std::size_t>(shape.cluster);
  const std::int64_t strips = shape.features / cut.piece.out;
  const std::int64_t total_strips = cut.groups.outputs / cut.piece.out;
  std::vector<std::vector<Stored>> stored(cluster);
  std::vector<std::vector<Step>> steps(cluster);
  std::vector<std::vector<std::uint32_t>> errands(cluster);
  std::vector<std::size_t> at(cluster, 0);
  for (std::size_t rank = 0; rank < cluster; ++rank) {
    const std::int64_t first = (set * shape.cluster + static_cast<std::int64_t>(rank)) * strips;
    stored[rank] = cut.stored(first, strips);
    for (std::int64_t s = first; s < first + strips; ++s)
      all.strips.push_back(s < total_strips ? static_cast<std::int32_t>(s * cut.piece.out) : -1);
  }
  Slots slots(shape.cluster, shape.slots);
  double cost = 0;
  for (std::uint32_t item = 0;; ++item) {
    std::uint32_t slab = 0xffffffff;
    for (std::size_t rank = 0; rank < cluster; ++rank)
      if (at[rank] < stored[rank].size()) slab = std::min(slab, stored[rank][at[rank]].slab);
    if (slab == 0xffffffff) break;
    std::uint32_t needers = 0;
    int most = 0;
    std::array<Step, 8> now{};
    for (std::size_t rank = 0; rank < cluster; ++rank) {
      Step& step = now[rank];
      step.first = static_cast<std::uint32_t>(all.pieces.size());
      int count = 0;
      for (; at[rank] < stored[rank].size() && stored[rank][at[rank]].slab == slab &&
             count < shape.most_pieces;
           ++at[rank], ++count) {
        const Stored& s = stored[rank][at[rank]];
        (s.bit < 32 ? step.mask : step.more) |= std::uint32_t{1} << s.bit % 32;
        all.pieces.push_back(s.code);
      }
      if (count > 0) needers |= std::uint32_t{1} << rank;
      most = std::max(most, count);
    }
    const std::uint32_t bringer = item % static_cast<std::uint32_t>(shape.cluster);
    const auto slot = static_cast<std::uint32_t>(slots.take(needers));
    for (std::size_t rank = 0; rank < cluster; ++rank) {
      if ((needers >> rank & 1) == 0) continue;
      now[rank].where = slab | slot << 16 | bringer << 24;
      steps[rank].push_back(now[rank]);
    }
    errands[bringer].push_back(slab | slot << 16 | needers << 24);
    // Sharers wait for the slowest; a step costs a little besides its products.
    constexpr double kStep = 0.3;
    cost += (most + kStep) / shape.cluster * std::popcount(needers);
  }
  for (std::size_t rank = 0; rank < cluster; ++rank) {
    all.steps.insert(all.steps.end(), steps[rank].begin(), steps[rank].end());
    all.step_begin.push_back(static_cast<std::uint32_t>(all.steps.size()));
    all.errands.insert(all.errands.end(), errands[rank].begin(), errands[rank].end());
    all.errand_begin.push_back(static_cast<std::uint32_t>(all.errands.size()));
  }
  all.costs.push_back(cost + 1);
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
  const std::int64_t slabs = (cut.groups.inputs_total + kSlab - 1) / kSlab;
  constexpr std::int64_t kMostSlabs = 0xffff;
  if (slabs > kMostSlabs || pattern.blocks() * pattern.block_rows > (std::int64_t{1} << 31) - 1)
    fail(ErrorKind::kUnsupported,
         "block-sparse products on a GPU: expected at most {} inputs and 2^31 rows of blocks, got "
         "{} and {}",
         kMostSlabs * kSlab, cut.groups.inputs_total, pattern.blocks() * pattern.block_rows);
  Steps all;
  const std::int64_t outputs = std::int64_t{shape.features} * shape.cluster;
  all.sets = (cut.groups.outputs + outputs - 1) / outputs;
  all.step_begin.push_back(0);
  all.errand_begin.push_back(0);
  for (std::int64_t set = 0; set < all.sets; ++set) add_set(cut, shape, set, all);
  return all;
}

std::int64_t slabs_brought(const Steps& steps, const StepShape& shape) {
  return static_cast<std::int64_t>(shape.cluster == 1 ? steps.steps.size() : steps.errands.size());
}

TileLists hand_out_tiles(const Steps& steps, std::int64_t token_tiles, std::int64_t workers) {
  std::vector<std::uint32_t> dearest(static_cast<std::size_t>(steps.sets));
  std::iota(dearest.begin(), dearest.end(), 0U);
  std::stable_sort(dearest.begin(), dearest.end(), [&](std::uint32_t a, std::uint32_t b) {
    return steps.costs[a] > steps.costs[b];
  });
  std::vector<Tile> all;
  for (std::int64_t t = 0; t < token_tiles; ++t)
    for (const std::uint32_t set : dearest) all.push_back({set, static_cast<std::uint32_t>(t)});
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
      return steps.costs[a.set] > steps.costs[b.set];
    });
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return load[a] < load[b]; });
    std::size_t next = 0;
    for (auto tile = begin; tile != end; ++tile, ++next) {
      lists[order[next]].push_back(*tile);
      load[order[next]] += steps.costs[tile->set];
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
