#include "base/skewed_shares.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace rarefy {
namespace {

TEST(SkewedShares, BlocksLieBetween30And99PercentWithTheMeanAskedFor) {
  for (const double overall : {0.5, 0.6, 0.7, 0.8, 0.9}) {
    constexpr int kSteps = 100000;
    double sum = 0;
    for (int i = 0; i < kSteps; ++i) {
      const double zeros = skewed_block_zeros(overall, (i + 0.5) / kSteps);
      EXPECT_GE(zeros, 0.30);
      EXPECT_LE(zeros, 0.99);
      sum += zeros;
    }
    EXPECT_NEAR(sum / kSteps, overall, 1e-3);
    EXPECT_EQ(skewed_block_zeros(overall, 0), 0.30);
    EXPECT_GT(skewed_block_zeros(overall, 0.999), 0.98);
  }
  // Outside of that range, around what is asked for.
  EXPECT_EQ(skewed_block_zeros(0.2, 0.5), 0.2);
  EXPECT_EQ(skewed_block_zeros(0, 0.7), 0);
  EXPECT_EQ(skewed_block_zeros(1, 0.3), 1);
}

TEST(SkewedShares, RowsAreLognormalWithTheMeanAskedFor) {
  for (const double zeros : {0.5, 0.7, 0.9}) {
    std::mt19937 random(1);
    std::uniform_real_distribution<double> unit;
    std::vector<double> density =
        skewed_row_densities(4096, zeros, [&](std::size_t) { return unit(random); });
    EXPECT_NEAR(std::accumulate(density.begin(), density.end(), 0.0) / 4096, 1 - zeros, 1e-6);
    std::sort(density.begin(), density.end());
    EXPECT_LE(density.back(), 1);
    // The 90 % quantile is exp(1.28 · 0.8) = 2.8 times the median where it is not cut.
    if (density[3686] < 1) {
      EXPECT_NEAR(density[3686] / density[2048], 2.8, 0.3);
    }
  }
  EXPECT_TRUE(skewed_row_densities(0, 0.5, {}).empty());
}

}  // namespace
}  // namespace rarefy
