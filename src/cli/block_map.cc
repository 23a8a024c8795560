#include "cli/block_map.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/terminal.h"

namespace rarefy::cli {
namespace {

/// The pattern's grid of counts, summed to other cells.
class Grid {
 public:
  explicit Grid(const PatternStats& p)
      : p_(p),
        rows_((p.rows + p.block_rows - 1) / p.block_rows),
        cols_((p.cols + p.block_cols - 1) / p.block_cols) {}
  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] std::int64_t cols() const { return cols_; }

  /// Density of cells [r0, r1) × [c0, c1).
  [[nodiscard]] double density(std::int64_t r0, std::int64_t r1, std::int64_t c0,
                               std::int64_t c1) const {
    double nnz = 0;
    for (std::int64_t r = r0; r < r1; ++r) {
      for (std::int64_t c = c0; c < c1; ++c)
        nnz += p_.block_nnz[static_cast<std::size_t>(r * cols_ + c)];
    }
    const std::int64_t rows = std::min(p_.rows, r1 * p_.block_rows) - r0 * p_.block_rows;
    const std::int64_t cols = std::min(p_.cols, c1 * p_.block_cols) - c0 * p_.block_cols;
    return rows > 0 && cols > 0 ? nnz / (static_cast<double>(rows) * static_cast<double>(cols)) : 0;
  }

 private:
  const PatternStats& p_;
  std::int64_t rows_, cols_;
};

}  // namespace

BandShares band_shares(const PatternStats& pattern, const BlockCurve& curve) {
  constexpr std::int64_t kSide = 64;
  BandShares shares{};
  const Grid grid(pattern);
  const std::int64_t high = std::max<std::int64_t>(1, kSide / pattern.block_rows);
  const std::int64_t wide = std::max<std::int64_t>(1, kSide / pattern.block_cols);
  double count = 0;
  for (std::int64_t r = 0; r < grid.rows(); r += high) {
    for (std::int64_t c = 0; c < grid.cols(); c += wide, ++count) {
      const double density =
          grid.density(r, std::min(grid.rows(), r + high), c, std::min(grid.cols(), c + wide));
      ++shares[static_cast<std::size_t>(curve.band(density))];
    }
  }
  for (double& share : shares) share /= std::max(count, 1.0);
  return shares;
}

std::string block_map(const PatternStats& pattern, const BlockCurve& curve) {
  constexpr std::int64_t kMostRows = 24;
  constexpr std::int64_t kMostCols = 64;
  constexpr std::string_view kLetters = " .o#";
  const BandShares shares = band_shares(pattern, curve);
  std::string text = fmt::format(
      "blocks of 64x64 at N = {}: # dense {}, o swing {}, . sparse {}, empty {}\n", curve.n,
      percent(shares[3]), percent(shares[2]), percent(shares[1]), percent(shares[0]));
  const Grid grid(pattern);
  const std::int64_t rows = std::min(kMostRows, grid.rows());
  const std::int64_t cols = std::min(kMostCols, grid.cols());
  for (std::int64_t r = 0; r < rows; ++r) {
    text += "  |";
    for (std::int64_t c = 0; c < cols; ++c) {
      const double density = grid.density(r * grid.rows() / rows, (r + 1) * grid.rows() / rows,
                                          c * grid.cols() / cols, (c + 1) * grid.cols() / cols);
      text += kLetters[static_cast<std::size_t>(curve.band(density))];
    }
    text += "|\n";
  }
  return text;
}

}  // namespace rarefy::cli
