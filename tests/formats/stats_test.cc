#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "formats/test_weights.h"

namespace rarefy {
namespace {

using testing::make_weights;
using testing::Pattern;
using testing::WeightCase;

PatternStats stats_of(const WeightCase& c, std::uint32_t seed, ThreadPool& pool) {
  const std::vector<float> values = make_weights(c, seed);
  return pattern_stats(DenseSource({values.data(), DType::kF32, c.rows, c.cols, c.cols}), pool);
}

TEST(PatternStats, CountsRowsAndBlocks) {
  ThreadPool pool(3);
  for (const WeightCase& c :
       {WeightCase{50, 101, Pattern::kUniform, 0.3}, {1, 1, Pattern::kFull, 1}, {64, 64}}) {
    const std::vector<float> values = make_weights(c, 3);
    const PatternStats stats =
        pattern_stats(DenseSource({values.data(), DType::kF32, c.rows, c.cols, c.cols}), pool);
    const std::int64_t grid_cols = (c.cols + 31) / 32;
    std::vector<std::int32_t> rows(static_cast<std::size_t>(c.rows));
    std::vector<std::uint16_t> blocks(static_cast<std::size_t>((c.rows + 15) / 16 * grid_cols));
    std::int64_t nnz = 0;
    for (std::int64_t r = 0; r < c.rows; ++r) {
      for (std::int64_t k = 0; k < c.cols; ++k) {
        if (values[static_cast<std::size_t>(r * c.cols + k)] == 0.0F) continue;
        ++nnz;
        ++rows[static_cast<std::size_t>(r)];
        ++blocks[static_cast<std::size_t>(r / 16 * grid_cols + k / 32)];
      }
    }
    EXPECT_EQ(stats.nnz, nnz);
    EXPECT_EQ(stats.row_nnz, rows);
    EXPECT_EQ(stats.block_nnz, blocks);
    const auto used = std::count_if(blocks.begin(), blocks.end(), [](auto n) { return n != 0; });
    EXPECT_DOUBLE_EQ(stats.block_density(),
                     static_cast<double>(used) / static_cast<double>(blocks.size()));
    EXPECT_DOUBLE_EQ(stats.density(),
                     static_cast<double>(nnz) / static_cast<double>(c.rows * c.cols));
  }
}

/// Blocks that hold a nonzero, counted one value after the other.
std::int64_t count_used(const WeightCase& c, const std::vector<float>& values, int rows, int cols) {
  std::int64_t used = 0;
  for (std::int64_t r0 = 0; r0 < c.rows; r0 += rows) {
    for (std::int64_t c0 = 0; c0 < c.cols; c0 += cols) {
      bool any = false;
      for (std::int64_t r = r0; r < std::min(c.rows, r0 + rows); ++r) {
        for (std::int64_t k = c0; k < std::min(c.cols, c0 + cols); ++k)
          any = any || values[static_cast<std::size_t>(r * c.cols + k)] != 0.0F;
      }
      used += any ? 1 : 0;
    }
  }
  return used;
}

TEST(PatternStats, CountsUsedBlocksOfEveryShapeThatIsPlanned) {
  ThreadPool pool(3);
  for (const WeightCase& c :
       {WeightCase{70, 149, Pattern::kUniform, 0.004},
        WeightCase{130, 200, Pattern::kUniform, 0.05}, WeightCase{64, 128, Pattern::kFull, 1}}) {
    const std::vector<float> values = make_weights(c, 5);
    const PatternStats stats =
        pattern_stats(DenseSource({values.data(), DType::kF32, c.rows, c.cols, c.cols}), pool);
    constexpr std::pair<int, int> kShapes[] = {{4, 4},   {8, 8},   {16, 16},
                                               {16, 32}, {32, 32}, {64, 64}};
    for (const auto& [rows, cols] : kShapes) {
      const std::int64_t grid = ((c.rows + rows - 1) / rows) * ((c.cols + cols - 1) / cols);
      EXPECT_DOUBLE_EQ(stats.block_share(rows, cols) * static_cast<double>(grid),
                       static_cast<double>(count_used(c, values, rows, cols)))
          << rows << 'x' << cols;
    }
  }
}

TEST(PatternStats, EstimatesTheShareOfOtherBlocksFromTheGrid) {
  // Half of the 16x32 blocks hold a quarter of ones at random: their 2x2 blocks are used by
  // 1 - 0.75^4, the others' by nothing.
  PatternStats stats;
  stats.rows = 32;
  stats.cols = 32;
  stats.nnz = 128;
  stats.block_nnz = {128, 0};
  EXPECT_NEAR(stats.block_share(2, 2), 0.5 * (1 - std::pow(0.75, 4)), 1e-12);
  stats.block_nnz.clear();
  EXPECT_NEAR(stats.block_share(2, 2), 1 - std::pow(0.875, 4), 1e-12);
}

TEST(PatternStats, AreEmptyForAnEmptyMatrix) {
  const PatternStats stats = pattern_stats(DenseSource({nullptr, DType::kF32, 0, 0, 0}));
  EXPECT_EQ(stats.nnz, 0);
  EXPECT_EQ(stats.density(), 0.0);
  EXPECT_EQ(stats.block_density(), 0.0);
  EXPECT_NE(stats.fingerprint(), 0U);
}

TEST(PatternStats, AreTheSameFromEveryFormat) {
  ThreadPool pool(2);
  const WeightCase c{40, 160, Pattern::kTwoOfFour, 0.5};
  const std::vector<float> values = make_weights(c, 3);
  const DenseSource source({values.data(), DType::kF32, c.rows, c.cols, c.cols});
  const PatternStats expected = pattern_stats(source, pool);
  for (const FormatSpec& spec : testing::all_specs()) {
    const MatrixPtr a = testing::try_pack(source, spec, DType::kBF16, pool);
    if (a == nullptr) continue;
    const PatternStats stats = pattern_stats(*a, pool);
    EXPECT_EQ(stats.row_nnz, expected.row_nnz) << spec.name();
    EXPECT_EQ(stats.block_nnz, expected.block_nnz) << spec.name();
    EXPECT_EQ(stats.fingerprint(), expected.fingerprint()) << spec.name();
  }
}

TEST(PatternStats, FingerprintTellsPatternsApart) {
  ThreadPool pool(2);
  const auto print = [&](const WeightCase& c, std::uint32_t seed) {
    return stats_of(c, seed, pool).fingerprint();
  };
  const WeightCase uniform{64, 256, Pattern::kUniform, 0.5};
  EXPECT_EQ(print(uniform, 1), print(uniform, 1));
  EXPECT_NE(print(uniform, 1), print({64, 256, Pattern::kUniform, 0.3}, 1));
  EXPECT_NE(print(uniform, 1), print({256, 64, Pattern::kUniform, 0.5}, 1));
  EXPECT_NE(print(uniform, 1), print({64, 256, Pattern::kRowSkew, 0.5}, 1));
}

}  // namespace
}  // namespace rarefy
