#include "ops/spmm/cuda/hybrid/splits.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "formats/block_counts.h"

namespace rarefy::gpu {
namespace {

/// Beyond, nothing is won over the dense product of the whole.
constexpr double kMostStored = 0.6;
/// Of all nonzeros: with fewer in blocks, blocks are not worth a kernel.
constexpr double kFewestInBlocks = 0.2;

/// What is left where the blocks with `fewest` nonzeros or more are gone.
PatternStats rest_of(const PatternStats& pattern, const std::vector<std::int32_t>& counts, int side,
                     int fewest) {
  PatternStats rest = pattern;
  rest.used_blocks.clear();  // Counted for the whole.
  const std::int64_t grid_cols = pattern.cols / pattern.block_cols;
  const std::int64_t high = side / pattern.block_rows, wide = side / pattern.block_cols;
  const std::int64_t cols = grid_cols / wide;
  rest.nnz = 0;
  for (std::int64_t r = 0; r < pattern.rows / pattern.block_rows; ++r) {
    std::int64_t all = 0, left = 0;
    for (std::int64_t c = 0; c < grid_cols; ++c) {
      std::uint16_t& nnz = rest.block_nnz[static_cast<std::size_t>(r * grid_cols + c)];
      all += nnz;
      if (counts[static_cast<std::size_t>(r / high * cols + c / wide)] >= fewest) nnz = 0;
      left += nnz;
    }
    rest.nnz += left;
    const double share = all > 0 ? static_cast<double>(left) / static_cast<double>(all) : 0;
    for (std::int64_t i = r * pattern.block_rows; i < (r + 1) * pattern.block_rows; ++i) {
      std::int32_t& nnz = rest.row_nnz[static_cast<std::size_t>(i)];
      nnz = static_cast<std::int32_t>(std::lround(share * nnz));
    }
  }
  return rest;
}

/// The fewest nonzeros of a stored block, ascending.
std::vector<int> limits(int side, const Crossing& crossing) {
  const int positions = side * side;
  std::vector<int> fewest;
  for (int parts = 256; parts >= 16; parts /= 2) fewest.push_back(positions / parts);
  if (crossing) {
    const double share = std::clamp(crossing(side), 0.0, 1.0);
    fewest.push_back(std::max(1, static_cast<int>(std::lround(share * positions))));
  }
  std::ranges::sort(fewest);
  return fewest;
}

}  // namespace

std::vector<Split> splits_of(const PatternStats& pattern, const Crossing& crossing) {
  std::vector<Split> found;
  for (const int side : {128, 64, 32}) {
    if (pattern.rows % side != 0 || pattern.cols % side != 0 || pattern.block_nnz.empty()) continue;
    const std::vector<std::int32_t> counts = block_counts(pattern, side, side);
    std::int64_t before = -1;
    for (const int fewest : limits(side, crossing)) {
      const std::int64_t stored =
          std::ranges::count_if(counts, [&](std::int32_t nnz) { return nnz >= fewest; });
      const bool some_left =
          std::ranges::any_of(counts, [&](std::int32_t nnz) { return nnz > 0 && nnz < fewest; });
      const double share = static_cast<double>(stored) / static_cast<double>(counts.size());
      if (stored == 0 || !some_left || share > kMostStored || stored == before) continue;
      before = stored;
      PatternStats rest = rest_of(pattern, counts, side, fewest);
      const double in_blocks = 1 - static_cast<double>(rest.nnz) / static_cast<double>(pattern.nnz);
      if (in_blocks >= kFewestInBlocks)
        found.push_back({side, side, fewest, share, std::move(rest)});
    }
  }
  return found;
}

}  // namespace rarefy::gpu
