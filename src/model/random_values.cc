#include "model/random_values.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rarefy {
namespace {

constexpr double kDeviation = 0.02;
constexpr std::size_t kQuantiles = 65536;

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
/// thread makes them.
void fill_row(std::uint64_t key, const std::vector<BFloat16>& table, BFloat16* row,
              std::int64_t cols) {
  std::uint64_t counter = mixed(key);
  for (std::int64_t c = 0; c < cols; c += 4) {
    counter += 0x9E3779B97F4A7C15U;
    std::uint64_t bits = mixed(counter);
    const std::int64_t end = std::min(cols, c + 4);
    for (std::int64_t i = c; i < end; ++i, bits >>= 16) row[i] = table[bits & 0xFFFFU];
  }
}

/// The bits that decide about blocks are none of those that make values.
constexpr std::uint64_t kBlocks = 0x5EED0F0B10C45ULL;

std::shared_ptr<const std::vector<BFloat16>> shared_table(double sparsity) {
  return std::make_shared<const std::vector<BFloat16>>(quantile_table(sparsity));
}

}  // namespace

void RandomValues::fill(std::int64_t r, BFloat16* row, std::int64_t cols) const {
  fill_row(key + static_cast<std::uint64_t>(r), *table, row, cols);
  if (empty == 0) return;
  const std::int64_t grid = (cols + block_cols - 1) / block_cols;
  for (std::int64_t block = 0; block < grid; ++block) {
    const auto place = static_cast<std::uint64_t>(r / block_rows * grid + block);
    const double unit = static_cast<double>(mixed(mixed(key ^ kBlocks) + place) >> 11) * 0x1p-53;
    const std::int64_t first = block * block_cols;
    if (unit < empty) std::fill(row + first, row + std::min(cols, first + block_cols), BFloat16{});
  }
}

RandomTensors::RandomTensors(const RandomCheckpoint& model)
    : dense_{.table = shared_table(0)}, seed_(model.seed) {
  const bool in_blocks = model.block_rows > 1 || model.block_cols > 1;
  pruned_ = {.table = in_blocks ? dense_.table : shared_table(model.sparsity),
             .empty = in_blocks ? model.sparsity : 0,
             .block_rows = model.block_rows,
             .block_cols = model.block_cols};
}

RandomValues RandomTensors::of(std::size_t index, bool pruned) const {
  RandomValues values = pruned ? pruned_ : dense_;
  values.key = mixed(seed_ * 0x9E3779B97F4A7C15U + index + 1);
  return values;
}

}  // namespace rarefy
