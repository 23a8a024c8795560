#include "compress/magnitude.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "compress/matrices.h"
#include "rarefy/error.h"

namespace rarefy::compress {
namespace {

TEST(DenseWeight, NamesTheFirstValueThatIsNotFinite) {
  ThreadPool pool(2);
  std::vector<float> values = testing::normal_values(12 * 10, 1);
  values[57] = std::numeric_limits<float>::quiet_NaN();
  values[99] = std::numeric_limits<float>::infinity();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    try {
      testing::dense_weight(values, 12, 10, pool, dtype);
      FAIL() << "expected an error";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kCorrupt);
      EXPECT_STREQ(e.what(), "w: expected finite weights, found nan at [5, 7]");
    }
  }
}

TEST(Magnitude, KeepsTheLargestInEveryDtype) {
  ThreadPool pool(2);
  const std::vector<float> values = testing::normal_values(16 * 24, 2);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    DenseWeight weight = testing::dense_weight(values, 16, 24, pool, dtype);
    const std::vector<float> before = testing::floats_of(weight);
    prune_magnitude(weight, {PrunePattern{}, PruneScope::kTensor, 0.7}, pool);
    const std::vector<float> after = testing::floats_of(weight);
    EXPECT_EQ(weight.nnz(pool), 16 * 24 - zeros_of(0.7, 16 * 24));
    float largest_gone = 0;
    float smallest_kept = 1e9F;
    for (std::size_t i = 0; i < before.size(); ++i) {
      if (after[i] == 0) {
        largest_gone = std::max(largest_gone, std::fabs(before[i]));
      } else {
        EXPECT_EQ(after[i], before[i]);
        smallest_kept = std::min(smallest_kept, std::fabs(after[i]));
      }
    }
    EXPECT_LE(largest_gone, smallest_kept);
  }
}

TEST(Magnitude, NegativeZeroIsAZero) {
  ThreadPool pool(1);
  const DenseWeight weight =
      testing::dense_weight({0.0F, -0.0F, 1.0F, -1.0F}, 2, 2, pool, DType::kBF16);
  EXPECT_EQ(weight.nnz(pool), 2);
}

TEST(Magnitude, ZerosStayAndCount) {
  ThreadPool pool(2);
  std::vector<float> values = testing::normal_values(100, 3);
  for (std::size_t i = 0; i < 100; i += 4) values[i] = 0;
  DenseWeight weight = testing::dense_weight(values, 10, 10, pool);
  prune_magnitude(weight, {PrunePattern{}, PruneScope::kTensor, 0.25}, pool);
  EXPECT_EQ(testing::floats_of(weight), values);
}

TEST(Magnitude, GlobalCutSpansTensors) {
  ThreadPool pool(2);
  std::vector<float> small = testing::normal_values(8 * 16, 4);
  for (float& v : small) v *= 0.1F;
  const std::vector<float> large = testing::normal_values(12 * 8, 5);
  std::vector<DenseWeight> weights;
  weights.push_back(testing::dense_weight(small, 8, 16, pool));
  weights.push_back(testing::dense_weight(large, 12, 8, pool));
  const std::vector<std::shared_ptr<const RowSource>> sources{
      std::make_shared<DenseSource>(matrix_ref(small.data(), 8, 16)),
      std::make_shared<DenseSource>(matrix_ref(large.data(), 12, 8))};
  const GlobalCut cut = find_global_cut(sources, PrunePattern{}, 0.5, pool);
  for (std::size_t i = 0; i < 2; ++i) prune_magnitude(weights[i], PrunePattern{}, cut, i, pool);
  EXPECT_EQ(weights[0].nnz(pool) + weights[1].nnz(pool), 112);
  // The tensor of small weights pays for most.
  EXPECT_LT(weights[0].nnz(pool), 32);
  EXPECT_GT(weights[1].nnz(pool), 80);
}

TEST(Magnitude, GlobalCutWorksOnBlocks) {
  ThreadPool pool(2);
  const std::vector<float> a = testing::normal_values(8 * 8, 6);
  const std::vector<float> b = testing::normal_values(16 * 4, 7);
  std::vector<DenseWeight> weights;
  weights.push_back(testing::dense_weight(a, 8, 8, pool));
  weights.push_back(testing::dense_weight(b, 16, 4, pool));
  const std::vector<std::shared_ptr<const RowSource>> sources{
      std::make_shared<DenseSource>(matrix_ref(a.data(), 8, 8)),
      std::make_shared<DenseSource>(matrix_ref(b.data(), 16, 4))};
  const PrunePattern pattern = PrunePattern::parse("4x4");
  const GlobalCut cut = find_global_cut(sources, pattern, 0.75, pool);
  for (std::size_t i = 0; i < 2; ++i) prune_magnitude(weights[i], pattern, cut, i, pool);
  EXPECT_EQ(weights[0].nnz(pool) + weights[1].nnz(pool), 2 * 16);
}

TEST(WeightError, IsTheShareOfTheEnergyLost) {
  ThreadPool pool(2);
  const std::vector<float> before{1, 2, 3, 4};
  const std::vector<float> after{0, 2, 0, 4};
  const DenseSource b(matrix_ref(before.data(), 2, 2));
  const DenseSource a(matrix_ref(after.data(), 2, 2));
  EXPECT_DOUBLE_EQ(weight_error(b, a, pool), 10.0 / 30.0);
  EXPECT_DOUBLE_EQ(weight_error(b, b, pool), 0.0);
}

}  // namespace
}  // namespace rarefy::compress
