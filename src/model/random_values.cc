#include "model/random_values.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/skewed_shares.h"

namespace rarefy {
namespace {

constexpr double kDeviation = 0.02;
constexpr std::size_t kQuantiles = 65536;
constexpr std::int64_t kSkewBlock = 64;

/// x with Φ(x) = p, by bisection: called once for each entry of a table.
double normal_quantile(double p) {
  double low = -10;
  double high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::numbers::sqrt2) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

/// The normal distribution in 65536 equally likely values, the `sparsity` smallest of them zero: a
/// random 16-bit number picks a weight, pruned or not.
std::vector<BFloat16> quantile_table(double sparsity) {
  std::vector<BFloat16> table(kQuantiles);
  const auto zeros = static_cast<std::size_t>(std::llround(sparsity * kQuantiles));
  const std::size_t first_zero = (kQuantiles - zeros) / 2;
  for (std::size_t i = 0; i < kQuantiles; ++i) {
    if (i >= first_zero && i < first_zero + zeros) continue;
    const double p = (static_cast<double>(i) + 0.5) / kQuantiles;
    table[i] = to_bfloat16(static_cast<float>(kDeviation * normal_quantile(p)));
  }
  return table;
}

std::uint64_t mixed(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

/// One row of weights, four from each 64-bit number of a counter: rows are independent, whichever
/// thread makes them. `zeros_at(c)` is the share of zeros around column `c`, a multiple of four:
/// the values in the middle of the table.
template <class ZerosAt>
void fill_row(std::uint64_t key, const std::vector<BFloat16>& table, BFloat16* row,
              std::int64_t cols, ZerosAt&& zeros_at) {
  constexpr int kMiddle = kQuantiles / 2;
  std::uint64_t counter = mixed(key);
  for (std::int64_t c = 0; c < cols; c += 4) {
    counter += 0x9E3779B97F4A7C15U;
    std::uint64_t bits = mixed(counter);
    const int zeros = static_cast<int>(kMiddle * zeros_at(c));  // On either side of the middle.
    const std::int64_t end = std::min(cols, c + 4);
    for (std::int64_t i = c; i < end; ++i, bits >>= 16) {
      const int place = static_cast<int>(bits & 0xFFFFU);
      const bool kept = place < kMiddle - zeros || place >= kMiddle + zeros;
      row[i] = kept ? table[static_cast<std::size_t>(place)] : BFloat16{};
    }
  }
}

/// The bits that decide about blocks and rows are none of those that make values.
constexpr std::uint64_t kBlocks = 0x5EED0F0B10C45ULL;
constexpr std::uint64_t kRows = 0x5EED0F4045ULL;

/// The i-th of the numbers in [0, 1) that `what` of a tensor is decided by.
double unit_of(std::uint64_t key, std::uint64_t what, std::uint64_t i) {
  return static_cast<double>(mixed(mixed(key ^ what) + i) >> 11) * 0x1p-53;
}

/// Shares of zeros of the blocks that row `r` passes through.
std::vector<double> zeros_of_blocks(std::uint64_t key, double overall, std::int64_t r,
                                    std::int64_t cols) {
  std::vector<double> zeros(static_cast<std::size_t>((cols + kSkewBlock - 1) / kSkewBlock));
  const auto first = static_cast<std::uint64_t>(r / kSkewBlock) * zeros.size();
  for (std::size_t block = 0; block < zeros.size(); ++block)
    zeros[block] = skewed_block_zeros(overall, unit_of(key, kBlocks, first + block));
  return zeros;
}

std::shared_ptr<const std::vector<BFloat16>> shared_table(double sparsity) {
  return std::make_shared<const std::vector<BFloat16>>(quantile_table(sparsity));
}

}  // namespace

void RandomValues::fill(std::int64_t r, BFloat16* row, std::int64_t cols) const {
  const std::uint64_t row_key = key + static_cast<std::uint64_t>(r);
  if (block_zeros > 0) {
    const std::vector<double> zeros = zeros_of_blocks(key, block_zeros, r, cols);
    fill_row(row_key, *table, row, cols,
             [&](std::int64_t c) { return zeros[static_cast<std::size_t>(c / kSkewBlock)]; });
    return;
  }
  const double zeros =
      row_densities != nullptr ? 1 - (*row_densities)[static_cast<std::size_t>(r)] : 0;
  fill_row(row_key, *table, row, cols, [=](std::int64_t) { return zeros; });
  if (empty == 0) return;
  const std::int64_t grid = (cols + block_cols - 1) / block_cols;
  for (std::int64_t block = 0; block < grid; ++block) {
    const auto place = static_cast<std::uint64_t>(r / block_rows * grid + block);
    const std::int64_t first = block * block_cols;
    if (unit_of(key, kBlocks, place) < empty)
      std::fill(row + first, row + std::min(cols, first + block_cols), BFloat16{});
  }
}

RandomTensors::RandomTensors(const RandomCheckpoint& model)
    : dense_{.table = shared_table(0)}, seed_(model.seed) {
  const bool in_blocks = model.block_rows > 1 || model.block_cols > 1;
  const bool even = model.pattern == ZeroPattern::kEven;
  pruned_ = {.table = in_blocks || !even ? dense_.table : shared_table(model.sparsity),
             .empty = in_blocks ? model.sparsity : 0,
             .block_rows = model.block_rows,
             .block_cols = model.block_cols,
             .block_zeros = model.pattern == ZeroPattern::kBlockSkew ? model.sparsity : 0};
  if (model.pattern == ZeroPattern::kRowSkew) row_zeros_ = model.sparsity;
}

RandomValues RandomTensors::of(std::size_t index, std::int64_t rows, bool pruned) const {
  RandomValues values = pruned ? pruned_ : dense_;
  values.key = mixed(seed_ * 0x9E3779B97F4A7C15U + index + 1);
  if (pruned && row_zeros_ > 0) {
    values.row_densities = std::make_shared<const std::vector<double>>(
        skewed_row_densities(static_cast<std::size_t>(rows), row_zeros_,
                             [&](std::size_t i) { return unit_of(values.key, kRows, i); }));
  }
  return values;
}

}  // namespace rarefy
