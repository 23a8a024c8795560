#include "formats/block_counts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "formats/test_weights.h"
#include "rarefy/error.h"

namespace rarefy {
namespace {

TEST(BlockCounts, CountWhatLiesInEachBlock) {
  const testing::WeightCase c{130, 200, testing::Pattern::kUniform, 0.05};
  const std::vector<float> values = testing::make_weights(c, 5);
  const PatternStats stats =
      pattern_stats(DenseSource({values.data(), DType::kF32, c.rows, c.cols, c.cols}));
  for (const auto& [rows, cols] : {std::pair{16, 32}, {32, 32}, {64, 64}, {48, 96}, {256, 256}}) {
    std::vector<std::int32_t> expected;
    for (std::int64_t r0 = 0; r0 < c.rows; r0 += rows) {
      for (std::int64_t c0 = 0; c0 < c.cols; c0 += cols) {
        std::int32_t count = 0;
        for (std::int64_t r = r0; r < std::min(c.rows, r0 + rows); ++r) {
          for (std::int64_t k = c0; k < std::min(c.cols, c0 + cols); ++k)
            count += values[static_cast<std::size_t>(r * c.cols + k)] != 0.0F ? 1 : 0;
        }
        expected.push_back(count);
      }
    }
    EXPECT_EQ(block_counts(stats, rows, cols), expected) << rows << 'x' << cols;
    EXPECT_EQ(std::accumulate(expected.begin(), expected.end(), std::int64_t{0}), stats.nnz);
  }
}

TEST(BlockCounts, RefuseWhatWasNotCounted) {
  const std::vector<float> values(64 * 64, 1.0F);
  PatternStats stats = pattern_stats(DenseSource({values.data(), DType::kF32, 64, 64, 64}));
  EXPECT_THROW(block_counts(stats, 8, 32), Error);
  EXPECT_THROW(block_counts(stats, 16, 48), Error);
  EXPECT_THROW(block_counts(stats, 0, 32), Error);
  stats.block_nnz.clear();
  EXPECT_THROW(block_counts(stats, 16, 32), Error);
  EXPECT_TRUE(
      block_counts(pattern_stats(DenseSource({nullptr, DType::kF32, 0, 0, 0})), 16, 32).empty());
}

}  // namespace
}  // namespace rarefy
