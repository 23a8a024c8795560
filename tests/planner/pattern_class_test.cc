#include "planner/pattern_class.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "rarefy/tensor.h"

namespace rarefy::planning::testing {
namespace {

/// 512×512 with density `density(r, c)`.
template <class Density>
Json class_of(std::uint64_t seed, const Density& density) {
  constexpr std::int64_t kSize = 512;
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> unit;
  std::vector<float> values(kSize * kSize);
  for (std::int64_t i = 0; i < kSize * kSize; ++i)
    values[static_cast<std::size_t>(i)] =
        unit(random) < density(i / kSize, i % kSize) ? 1.0F : 0.0F;
  return pattern_class(
      pattern_stats(DenseSource({values.data(), DType::kF32, kSize, kSize, kSize})));
}

TEST(PatternClass, TheSameRecipeOnAnotherWeightIsTheSameClass) {
  // 0.302 lies in the middle of a step of 4 %, so that chance does not push it over an edge.
  const auto uniform = [](std::int64_t, std::int64_t) { return 0.302; };
  EXPECT_EQ(class_of(1, uniform), class_of(2, uniform));
}

TEST(PatternClass, DensitySkewAndBlocksTellApart) {
  const Json uniform = class_of(1, [](std::int64_t, std::int64_t) { return 0.3; });
  EXPECT_NE(uniform, class_of(1, [](std::int64_t, std::int64_t) { return 0.35; }));
  EXPECT_NE(uniform, class_of(1, [](std::int64_t r, std::int64_t) { return r < 256 ? 0.5 : 0.1; }));
  const auto checkered = [](std::int64_t r, std::int64_t c) {
    return (r / 64 + c / 64) % 2 == 0 ? 0.55 : 0.05;
  };
  EXPECT_NE(uniform, class_of(1, checkered));
}

TEST(PatternClass, EmptyWeightsHaveOne) {
  EXPECT_NO_THROW(pattern_class(PatternStats{}));
  const Json none = class_of(1, [](std::int64_t, std::int64_t) { return 0.0; });
  const Json full = class_of(1, [](std::int64_t, std::int64_t) { return 1.0; });
  EXPECT_NE(none, full);
}

}  // namespace
}  // namespace rarefy::planning::testing
