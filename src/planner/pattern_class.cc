#include "planner/pattern_class.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace rarefy::planning {
namespace {

/// Densities in steps of 4 % of themselves: the time of a decode kernel follows its bytes, so two
/// weights of one class differ by less than that.
int density_step(double density) {
  if (density <= 0) return -1000;
  return static_cast<int>(std::lround(std::log(density) / std::log(1.04)));
}

/// Cumulated shares of blocks below nine densities, in sixteenths.
std::array<int, 9> block_shares(const PatternStats& p) {
  constexpr std::array<double, 9> kBelow{1e-9, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9};
  std::array<std::int64_t, 9> counts{};
  const std::int64_t grid_cols = (p.cols + p.block_cols - 1) / p.block_cols;
  for (std::size_t i = 0; i < p.block_nnz.size(); ++i) {
    const std::int64_t r = static_cast<std::int64_t>(i) / grid_cols * p.block_rows;
    const std::int64_t c = static_cast<std::int64_t>(i) % grid_cols * p.block_cols;
    const double area = static_cast<double>(std::min<std::int64_t>(p.block_rows, p.rows - r) *
                                            std::min<std::int64_t>(p.block_cols, p.cols - c));
    for (std::size_t b = 0; b < kBelow.size(); ++b)
      counts[b] += static_cast<double>(p.block_nnz[i]) / area < kBelow[b] ? 1 : 0;
  }
  std::array<int, 9> shares{};
  for (std::size_t b = 0; b < shares.size() && !p.block_nnz.empty(); ++b)
    shares[b] = static_cast<int>(std::lround(16.0 * static_cast<double>(counts[b]) /
                                             static_cast<double>(p.block_nnz.size())));
  return shares;
}

/// Quantiles of the row lengths over their mean, in quarters, up to four times the mean.
std::array<int, 5> row_quantiles(const PatternStats& p) {
  std::array<int, 5> quantiles{};
  if (p.row_nnz.empty() || p.nnz == 0) return quantiles;
  std::vector<std::int32_t> lengths = p.row_nnz;
  std::sort(lengths.begin(), lengths.end());
  const double mean = static_cast<double>(p.nnz) / static_cast<double>(p.rows);
  // The extremes of many rows differ from weight to weight; 2 % and 98 % are steadier.
  constexpr std::array<double, 5> kAt{0.02, 0.25, 0.5, 0.75, 0.98};
  for (std::size_t i = 0; i < kAt.size(); ++i) {
    const auto at = static_cast<std::size_t>(kAt[i] * static_cast<double>(lengths.size() - 1));
    quantiles[i] = static_cast<int>(std::lround(4 * std::min(4.0, lengths[at] / mean)));
  }
  return quantiles;
}

/// Shares of used blocks of other shapes, in sixteenths: what BSR of that shape would store.
std::vector<int> shares_of_shapes(const PatternStats& p) {
  constexpr std::array<int, 5> kSizes{4, 8, 16, 32, 64};
  std::vector<int> shares;
  shares.reserve(kSizes.size());
  for (int size : kSizes)
    shares.push_back(static_cast<int>(std::lround(16 * p.block_share(size, size))));
  return shares;
}

}  // namespace

Json pattern_class(const PatternStats& pattern) {
  return {{"density", density_step(pattern.density())},
          {"blocks", block_shares(pattern)},
          {"squares", shares_of_shapes(pattern)},
          {"rows", row_quantiles(pattern)}};
}

}  // namespace rarefy::planning
