#include "formats/hybrid_shares.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "formats/block_counts.h"

namespace rarefy {
namespace {

constexpr std::int64_t kPairRows = 32;
constexpr std::int64_t kTileCols = 32;
constexpr double kVisitCols = 128;
constexpr std::ptrdiff_t kScope = 128;

/// Adds `count` blocks of `area` positions and one density each.
class Adder {
 public:
  Adder(const FormatSpec& spec, HybridShares& shares) : spec_(spec), shares_(shares) {}

  void add(double nnz, double rows, double cols) {
    const double area = rows * cols;
    if (area <= 0 || nnz <= 0) return;
    const double density = nnz / area;
    if (nnz * 1024 < area * spec_.sparse_below) {
      shares_.sparse_nonzeros += nnz;
      shares_.sparse_visits += rows * (cols / kVisitCols) *
                               (1 - std::pow(1 - density, std::min(cols, kVisitCols))) *
                               std::max(1.0, kVisitCols / cols);
      return;
    }
    // A pair of tiles is stored when it holds anything.
    const double pairs = std::ceil(rows / kPairRows) * std::ceil(cols / kTileCols);
    const double used = 1 - std::pow(1 - 1 / pairs, nnz);
    shares_.tiles += 2 * pairs * used;
    shares_.tile_nonzeros += nnz;
  }

 private:
  const FormatSpec& spec_;
  HybridShares& shares_;
};

/// Blocks of rows [r, r + height), all of one density.
void add_rows(Adder& adder, double nnz, double height, double cols, double block_cols) {
  for (double c = 0; c < cols; c += block_cols) {
    const double width = std::min(block_cols, cols - c);
    adder.add(nnz * width / cols, height, width);
  }
}

/// The grid of `pattern` (16×32) summed to blocks, a whole number of cells each.
void add_grid(Adder& adder, const FormatSpec& spec, const PatternStats& p) {
  const std::vector<std::int32_t> counts = block_counts(p, spec.block_rows, spec.block_cols);
  std::size_t block = 0;
  for (std::int64_t r = 0; r < p.rows; r += spec.block_rows) {
    const auto rows = static_cast<double>(std::min<std::int64_t>(spec.block_rows, p.rows - r));
    for (std::int64_t c = 0; c < p.cols; c += spec.block_cols, ++block)
      adder.add(counts[block], rows,
                static_cast<double>(std::min<std::int64_t>(spec.block_cols, p.cols - c)));
  }
}

}  // namespace

HybridShares hybrid_shares(const FormatSpec& spec, const PatternStats& p) {
  HybridShares shares;
  if (p.rows == 0 || p.cols == 0) return shares;
  Adder adder(spec, shares);
  const bool grid = !p.block_nnz.empty() && spec.block_rows % p.block_rows == 0 &&
                    spec.block_cols % p.block_cols == 0;
  if (grid && !spec.sort_rows && !spec.sort_cols) {
    add_grid(adder, spec, p);
    return shares;
  }
  std::vector<std::int32_t> lengths = p.row_nnz;
  if (lengths.empty())
    lengths.assign(static_cast<std::size_t>(p.rows), static_cast<std::int32_t>(p.nnz / p.rows));
  for (auto at = lengths.begin(); spec.sort_rows && at != lengths.end();) {
    const auto end = at + std::min<std::ptrdiff_t>(kScope, lengths.end() - at);
    std::sort(at, end, std::greater<>());
    at = end;
  }
  for (std::int64_t r = 0; r < p.rows; r += spec.block_rows) {
    const std::int64_t stop = std::min<std::int64_t>(p.rows, r + spec.block_rows);
    double nnz = 0;
    for (std::int64_t i = r; i < stop; ++i) nnz += lengths[static_cast<std::size_t>(i)];
    add_rows(adder, nnz, static_cast<double>(stop - r), static_cast<double>(p.cols),
             spec.block_cols);
  }
  return shares;
}

}  // namespace rarefy
