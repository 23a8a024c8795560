#include "cli/bench_ops_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <vector>

#include "rarefy/error.h"
#include "rarefy/matrix.h"

namespace rarefy::bench {
namespace {

std::vector<double> row_densities(const BenchWeight& weight) {
  const PatternStats stats = pattern_stats(weight.source());
  std::vector<double> densities;
  for (std::int32_t nnz : stats.row_nnz)
    densities.push_back(static_cast<double>(nnz) / static_cast<double>(weight.k));
  return densities;
}

/// Densities of 64×64 blocks.
std::vector<double> block_densities(const BenchWeight& weight) {
  std::vector<double> densities;
  std::vector<float> row(static_cast<std::size_t>(weight.k));
  const std::int64_t grid = weight.k / 64;
  densities.resize(static_cast<std::size_t>(weight.m / 64 * grid));
  for (std::int64_t r = 0; r < weight.m; ++r) {
    convert_elements(
        weight.values.data() + static_cast<std::size_t>(r * weight.k) * size_of(weight.dtype),
        weight.dtype, row.data(), DType::kF32, row.size());
    for (std::int64_t c = 0; c < weight.k; ++c) {
      if (row[static_cast<std::size_t>(c)] != 0)
        densities[static_cast<std::size_t>(r / 64 * grid + c / 64)] += 1.0 / (64 * 64);
    }
  }
  return densities;
}

TEST(MakeWeight, EveryPatternHasTheSparsityAskedFor) {
  for (const char* pattern : {"uniform", "blockskew", "blockempty", "rowskew", "16x32", "4x4"}) {
    for (double sparsity : {0.5, 0.8, 0.95}) {
      for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        const BenchWeight weight = make_weight(
            {.m = 512, .k = 1024, .sparsity = sparsity, .dtype = dtype, .pattern = pattern});
        // 16x32 has 1024 blocks here: a standard deviation of up to 0.016.
        EXPECT_NEAR(weight.sparsity, sparsity, 0.05) << pattern;
      }
    }
  }
}

TEST(MakeWeight, ExtremesAreExact) {
  for (const char* pattern : {"uniform", "rowskew", "16x32"}) {
    EXPECT_EQ(make_weight({.m = 32, .k = 64, .sparsity = 0, .pattern = pattern}).sparsity, 0)
        << pattern;
    EXPECT_EQ(make_weight({.m = 32, .k = 64, .sparsity = 1, .pattern = pattern}).sparsity, 1)
        << pattern;
  }
}

TEST(MakeWeight, OutliersLieBetweenFullBlocks) {
  const BenchWeight weight =
      make_weight({.m = 1024, .k = 1024, .sparsity = 0.75, .pattern = "outliers"});
  EXPECT_NEAR(weight.sparsity, 0.75, 0.1);  // Of 256 blocks: four standard deviations.
  int full = 0;
  for (const double density : block_densities(weight)) {
    EXPECT_TRUE(density == 1 || (density > 0 && density < 0.02)) << density;
    full += density == 1 ? 1 : 0;
  }
  EXPECT_GT(full, 30);
  EXPECT_THROW(make_weight({.m = 64, .k = 64, .sparsity = 0.999, .pattern = "outliers"}), Error);
}

TEST(MakeWeight, BlockskewSpreadsFrom30To99Percent) {
  const BenchWeight weight =
      make_weight({.m = 1024, .k = 1024, .sparsity = 0.7, .pattern = "blockskew"});
  std::vector<double> densities = block_densities(weight);
  const auto [low, high] = std::minmax_element(densities.begin(), densities.end());
  EXPECT_LT(*low, 0.05);  // 99 % sparse, or close to it
  EXPECT_GT(*high, 0.6);  // 30 % sparse, or close to it
  EXPECT_LT(*high, 0.75);
}

TEST(MakeWeight, RowskewIsSkewedOverRowsAndEvenWithinThem) {
  const BenchWeight weight =
      make_weight({.m = 2048, .k = 512, .sparsity = 0.9, .pattern = "rowskew"});
  std::vector<double> densities = row_densities(weight);
  std::sort(densities.begin(), densities.end());
  // Lognormal with sigma 0.8: the 90 % quantile is exp(1.28 · 0.8) = 2.8 times the median.
  EXPECT_NEAR(densities[1843] / densities[1024], 2.8, 0.5);
}

TEST(MakeWeight, BlocksAreWholeOrAbsent) {
  const BenchWeight weight =
      make_weight({.m = 64, .k = 96, .sparsity = 0.5, .dtype = DType::kF32, .pattern = "16x32"});
  const PatternStats stats = pattern_stats(weight.source());
  for (std::uint16_t nnz : stats.block_nnz) EXPECT_TRUE(nnz == 0 || nnz == 16 * 32) << nnz;
}

TEST(MakeWeight, NmKeepsNOfEveryM) {
  const BenchWeight weight =
      make_weight({.m = 16, .k = 64, .dtype = DType::kF32, .pattern = "2:4"});
  const float* at = weight.values.as<float>();
  bool differ = false;
  for (int group = 0; group < 16 * 64 / 4; ++group, at += 4) {
    EXPECT_EQ(std::count(at, at + 4, 0.0F), 2);
    differ = differ || at[0] == 0;
  }
  EXPECT_TRUE(differ);
  EXPECT_EQ(weight.sparsity, 0.5);
}

TEST(MakeWeight, IsTheSameForAnyNumberOfThreadsAndOtherForOtherSeeds) {
  const WeightSpec spec{.m = 100, .k = 77, .sparsity = 0.6, .pattern = "blockskew"};
  ThreadPool one(1);
  ThreadPool three(3);
  const BenchWeight a = make_weight(spec, one);
  const BenchWeight b = make_weight(spec, three);
  ASSERT_EQ(a.values.size(), b.values.size());
  EXPECT_EQ(std::memcmp(a.values.data(), b.values.data(), a.values.size()), 0);
  WeightSpec other = spec;
  other.seed = 2;
  const BenchWeight c = make_weight(other, one);
  EXPECT_NE(std::memcmp(a.values.data(), c.values.data(), a.values.size()), 0);
}

TEST(MakeWeight, ReadsFiles) {
  const std::string path = ::testing::TempDir() + "bench_ops.smtx";
  std::ofstream(path) << "2, 4, 3\n0 2 3\n0 3 1\n";
  const BenchWeight weight = make_weight({.dtype = DType::kF32, .pattern = path});
  EXPECT_EQ(weight.m, 2);
  EXPECT_EQ(weight.k, 4);
  EXPECT_DOUBLE_EQ(weight.sparsity, 5.0 / 8);
  const float* at = weight.values.as<float>();
  EXPECT_NE(at[0], 0);
  EXPECT_NE(at[3], 0);
  EXPECT_NE(at[5], 0);
}

TEST(MakeWeight, RefusesWhatItDoesNotKnow) {
  EXPECT_THROW(make_weight({.m = 4, .k = 4, .pattern = "plaid"}), Error);
  EXPECT_THROW(make_weight({.m = 0, .k = 4}), Error);
  EXPECT_THROW(make_weight({.m = 4, .k = 4, .sparsity = 1.5}), Error);
  EXPECT_THROW(make_weight({.m = 4, .k = 4, .pattern = "4:2"}), Error);
  EXPECT_THROW(make_weight({.m = 4, .k = 4, .pattern = "/nowhere/at/all.smtx"}), Error);
}

}  // namespace
}  // namespace rarefy::bench
