// The map of a weight's blocks by bands.
#include "cli/block_map.h"

#include <gtest/gtest.h>

#include <vector>

namespace rarefy::cli {
namespace {

constexpr BlockCurve kCurve{DType::kBF16, 128, 80, 20, 4, 1600};

TEST(BlockMap, DrawsEveryBandAndCountsIt) {
  // 128×128: upper left full, upper right empty, lower left 1 of 128, lower right about the
  // crossing.
  std::vector<float> values(128 * 128);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool lower = i / 128 >= 64;
    const bool right = i % 128 >= 64;
    const std::size_t every = lower ? (right ? 21 : 128) : 1;
    values[i] = !(right && !lower) && i % every == 0 ? 1.0F : 0.0F;
  }
  const PatternStats pattern =
      pattern_stats(DenseSource({values.data(), DType::kF32, 128, 128, 128}));
  const BandShares shares = band_shares(pattern, kCurve);
  for (const double share : shares) EXPECT_EQ(share, 0.25);
  const std::string map = block_map(pattern, kCurve);
  EXPECT_NE(map.find("at N = 128"), std::string::npos) << map;
  EXPECT_NE(map.find("  |##  |\n"), std::string::npos) << map;
  EXPECT_NE(map.find("oo|\n"), std::string::npos) << map;
}

TEST(BlockMap, CoversLargeAndEmptyWeights) {
  const std::vector<float> values(100 * 5000, 1.0F);
  const std::string wide =
      block_map(pattern_stats(DenseSource({values.data(), DType::kF32, 100, 5000, 5000})), kCurve);
  EXPECT_NE(wide.find("|" + std::string(64, '#') + "|"), std::string::npos) << wide;
  EXPECT_NO_THROW(block_map(pattern_stats(DenseSource({nullptr, DType::kF32, 0, 40, 40})), kCurve));
}

}  // namespace
}  // namespace rarefy::cli
