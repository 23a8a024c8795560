#include "formats/block_counts.h"

#include "base/check.h"

namespace rarefy {
namespace {

std::int64_t blocks_along(std::int64_t length, std::int64_t block) {
  return (length + block - 1) / block;
}

}  // namespace

std::vector<std::int32_t> block_counts(const PatternStats& p, int block_rows, int block_cols) {
  require(!p.block_nnz.empty() || p.rows == 0 || p.cols == 0,
          "block counts: expected a pattern with counts of blocks, got none");
  require(block_rows > 0 && block_cols > 0 && block_rows % p.block_rows == 0 &&
              block_cols % p.block_cols == 0,
          "block counts: expected multiples of {}x{}, got {}x{}", p.block_rows, p.block_cols,
          block_rows, block_cols);
  const std::int64_t grid_rows = blocks_along(p.rows, p.block_rows);
  const std::int64_t grid_cols = blocks_along(p.cols, p.block_cols);
  const std::int64_t high = block_rows / p.block_rows;
  const std::int64_t wide = block_cols / p.block_cols;
  const std::int64_t cols = blocks_along(grid_cols, wide);
  std::vector<std::int32_t> counts(static_cast<std::size_t>(blocks_along(grid_rows, high) * cols));
  for (std::int64_t r = 0; r < grid_rows; ++r) {
    for (std::int64_t c = 0; c < grid_cols; ++c)
      counts[static_cast<std::size_t>(r / high * cols + c / wide)] +=
          p.block_nnz[static_cast<std::size_t>(r * grid_cols + c)];
  }
  return counts;
}

}  // namespace rarefy
