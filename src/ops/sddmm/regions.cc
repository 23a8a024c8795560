// Places that lie anywhere: regions of 32×32 that hold enough of them are computed whole.
#include <bit>
#include <cmath>
#include <vector>

#include "ops/sddmm/tile_operand.h"
#include "ops/sddmm/tiles.h"
#include "ops/spmm/cpu/strip_engine.h"

namespace rarefy {
namespace {

using sddmm_cpu::kGroupColumns;
using sddmm_cpu::kTileSums;
using sddmm_cpu::TileOrder;

constexpr std::int64_t kSide = kGroupColumns;  ///< Rows and columns of a region.

/// Nanoseconds of one core, measured (cpu-kernels.md).
struct Costs {
  double region, sample, tile_pack;  ///< Tiles: a region, each of its places, both operands.
  double place, vector_pack;         ///< Multiply-adds.
  Costs(std::int64_t steps, std::int64_t elements) {
    const auto t = static_cast<double>(steps);
    const double tiles = std::ceil(t / sddmm_cpu::kTileSteps);
    const double passes = std::ceil(t / kStepsAtOnce);
    region = 4 * tiles * 8 + 100 * passes;
    sample = 2 * passes;
    tile_pack = 0.2 * tiles * sddmm_cpu::kTileSteps * static_cast<double>(elements);
    place = 3 + 0.025 * t;
    vector_pack = 2.8 * t * static_cast<double>(elements);
  }
};

/// Bit c of mask(s, g)[r]: row 32·s + r has a place in column 32·g + c.
class RegionMasks {
 public:
  RegionMasks(const Places& places, std::int64_t rows, std::int64_t cols, ThreadPool& pool)
      : strips_((rows + kSide - 1) / kSide),
        groups_(TileOperand::groups(cols)),
        masks_(static_cast<std::size_t>(strips_ * groups_ * kSide) * sizeof(std::uint32_t)),
        counts_(static_cast<std::size_t>(strips_ * groups_) * sizeof(std::int32_t)) {
    pool.parallel_for(strips_, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t s = begin; s < end; ++s) {
        auto* to = masks_.as<std::uint32_t>() + s * groups_ * kSide;
        auto* counts = counts_.as<std::int32_t>() + s * groups_;
        std::fill(to, to + groups_ * kSide, 0U);
        std::fill(counts, counts + groups_, 0);
        const std::int64_t live = std::min(kSide, rows - s * kSide);
        for (std::int64_t r = 0; r < live; ++r) {
          const std::int64_t last = places.offsets()[s * kSide + r + 1];
          for (std::int64_t i = places.offsets()[s * kSide + r]; i < last;) {
            const std::int64_t g = places.column()[i] / kSide;
            const std::int64_t first = i;
            std::uint32_t mask = 0;
            for (; i < last && places.column()[i] / kSide == g; ++i)
              mask |= 1U << places.column()[i] % kSide;
            to[g * kSide + r] = mask;
            counts[g] += static_cast<std::int32_t>(i - first);
          }
        }
      }
    });
  }
  [[nodiscard]] std::int64_t strips() const { return strips_; }
  [[nodiscard]] std::int64_t groups() const { return groups_; }
  [[nodiscard]] const std::uint32_t* mask(std::int64_t s, std::int64_t g) const {
    return masks_.as<std::uint32_t>() + (s * groups_ + g) * kSide;
  }
  [[nodiscard]] std::int32_t count(std::int64_t s, std::int64_t g) const {
    return counts_.as<std::int32_t>()[s * groups_ + g];
  }

 private:
  std::int64_t strips_, groups_;
  Buffer masks_, counts_;
};

/// Fewest places that a region of tiles holds: 1 when all are tiles, kNever when none is.
constexpr std::int32_t kNever = kSide * kSide + 1;
std::int32_t fewest_places(const RegionMasks& masks, const Costs& costs) {
  const double gain = costs.place - costs.sample;
  const std::int32_t worth = gain * kSide * kSide < costs.region
                                 ? kNever
                                 : static_cast<std::int32_t>(std::ceil(costs.region / gain));
  double regions = 0;
  double places = 0;
  double worthy = 0;
  double left = 0;  ///< Places of regions that are not worth it.
  for (std::int64_t s = 0; s < masks.strips(); ++s) {
    for (std::int64_t g = 0; g < masks.groups(); ++g) {
      const std::int32_t count = masks.count(s, g);
      if (count == 0) continue;
      regions += 1;
      places += count;
      (count >= worth ? worthy : left) += count >= worth ? 1 : count;
    }
  }
  const double all_tiles = costs.tile_pack + regions * costs.region + places * costs.sample;
  const double no_tiles = costs.vector_pack + places * costs.place;
  const double both = costs.tile_pack + costs.vector_pack + worthy * costs.region +
                      (places - left) * costs.sample + left * costs.place;
  if (all_tiles <= std::min(no_tiles, both)) return 1;
  return both < no_tiles ? worth : kNever;
}

/// One thread's strips of one range of t.
class Worker {
 public:
  Worker(const Places& places, const RegionMasks& masks, std::int32_t fewest, TileOperand& p,
         TileOperand& q, float* values, bool add)
      : places_(places), masks_(masks), fewest_(fewest), p_(p), q_(q), values_(values), add_(add) {}

  void run(std::int64_t begin, std::int64_t end, std::int64_t rows) {
    if (begin == end) return;
    strip::amx_begin(16);
    Scratch next_storage(static_cast<std::size_t>((end - begin) * kSide) * sizeof(std::int64_t));
    auto* next = next_storage.as<std::int64_t>();
    std::copy(places_.offsets() + begin * kSide, places_.offsets() + std::min(end * kSide, rows),
              next);
    const std::int64_t width = groups_in_l2(q_);
    for (std::int64_t g = 0; g < masks_.groups(); g += width) {
      for (std::int64_t s = begin; s < end; ++s)
        run_strip(s, g, std::min(masks_.groups(), g + width), next + (s - begin) * kSide);
    }
    strip::amx_end();
  }

 private:
  void run_strip(std::int64_t s, std::int64_t g_begin, std::int64_t g_end, std::int64_t* next) {
    alignas(64) float sums[4 * kTileSums];
    for (std::int64_t g = g_begin; g < g_end; ++g) {
      const std::int32_t count = masks_.count(s, g);
      if (count == 0) continue;
      const std::uint32_t* mask = masks_.mask(s, g);
      if (count < fewest_) {
        for (std::int64_t r = 0; r < kSide; ++r) next[r] += std::popcount(mask[r]);
        continue;
      }
      sddmm_cpu::multiply_tiles_amx({.left = p_.half(2 * s),
                                     .right = q_.half(2 * g),
                                     .left_halves = 2,
                                     .right_halves = 2,
                                     .step_tiles = p_.step_tiles(),
                                     .sums = sums,
                                     .add = false});
      sddmm_cpu::sample_region_amx(
          {.sums = sums, .masks = mask, .next = next, .values = values_, .add = add_});
    }
  }

  const Places& places_;
  const RegionMasks& masks_;
  std::int32_t fewest_;
  TileOperand &p_, &q_;
  float* values_;
  bool add_;
};

/// Strips [bound[w], bound[w + 1]) are worker w's: nearly equal numbers of regions.
std::vector<std::int64_t> share_strips(const RegionMasks& masks, std::int32_t fewest, int workers) {
  std::vector<std::int64_t> regions(static_cast<std::size_t>(masks.strips() + 1));
  for (std::int64_t s = 0; s < masks.strips(); ++s) {
    std::int64_t count = 0;
    for (std::int64_t g = 0; g < masks.groups(); ++g) count += masks.count(s, g) >= fewest ? 1 : 0;
    regions[static_cast<std::size_t>(s + 1)] = regions[static_cast<std::size_t>(s)] + count;
  }
  std::vector<std::int64_t> bounds;
  bounds.reserve(static_cast<std::size_t>(workers) + 1);
  for (int w = 0; w < workers; ++w)
    bounds.push_back(
        std::lower_bound(regions.begin(), regions.end() - 1, regions.back() * w / workers) -
        regions.begin());
  bounds.push_back(masks.strips());
  return bounds;
}

/// Places of regions that hold fewer than `fewest`.
Places other_places(const Places& all, const RegionMasks& masks, std::int64_t rows,
                    std::int32_t fewest, ThreadPool& pool) {
  return make_places(
      rows, pool,
      [&](std::int64_t row) {
        std::int64_t count = 0;
        for (std::int64_t g = 0; g < masks.groups(); ++g) {
          if (masks.count(row / kSide, g) < fewest)
            count += std::popcount(masks.mask(row / kSide, g)[row % kSide]);
        }
        return count;
      },
      [&](std::int64_t row, std::uint32_t* out) {
        for (std::int64_t i = all.offsets()[row]; i < all.offsets()[row + 1]; ++i) {
          const std::uint32_t c = all.column()[i];
          if (masks.count(row / kSide, c / kSide) < fewest) *out++ = c;
        }
      });
}

}  // namespace

Places sddmm_regions(const Places& places, std::int64_t cols, const ConstMatrixRef& p,
                     const ConstMatrixRef& q, float* values, ThreadPool& pool) {
  const std::int64_t rows = p.cols;
  const RegionMasks masks(places, rows, cols, pool);
  const std::int32_t fewest = fewest_places(masks, Costs(p.rows, rows + cols));
  if (fewest < kNever) {
    const std::vector<std::int64_t> bounds = share_strips(masks, fewest, pool.size());
    TileOperand p_tiles(p, rows, TileOrder::kRows);
    TileOperand q_tiles(q, cols, TileOrder::kPairs);
    for (std::int64_t t = 0; t < p.rows; t += kStepsAtOnce) {
      const std::int64_t end = std::min(p.rows, t + kStepsAtOnce);
      p_tiles.pack(t, end, pool);
      q_tiles.pack(t, end, pool);
      pool.run([&](int worker) {
        const auto w = static_cast<std::size_t>(worker);
        Worker(places, masks, fewest, p_tiles, q_tiles, values, t > 0)
            .run(bounds[w], bounds[w + 1], rows);
      });
    }
  }
  return other_places(places, masks, rows, fewest, pool);
}

void merge_values(const Places& all, const Places& others, std::int64_t rows,
                  const float* other_values, float* values, ThreadPool& pool) {
  pool.parallel_for(rows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::int64_t at = all.offsets()[row];
      for (std::int64_t i = others.offsets()[row]; i < others.offsets()[row + 1]; ++i, ++at) {
        while (all.column()[at] != others.column()[i]) ++at;
        values[at] = other_values[i];
      }
    }
  });
}

}  // namespace rarefy
