#include "compress/wanda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "compress/magnitude.h"
#include "compress/matrices.h"
#include "rarefy/error.h"

namespace rarefy::compress {
namespace {

constexpr std::int64_t kM = 20;
constexpr std::int64_t kK = 40;

TEST(Wanda, MatchesThePlainDefinition) {
  ThreadPool pool(3);
  const std::vector<float> values = testing::normal_values(kM * kK, 1);
  const std::vector<float> x = testing::correlated_inputs(64, kK, 2);
  InputNorms norms(kK);
  norms.add(matrix_ref(x.data(), 40, kK), pool);
  norms.add(matrix_ref(x.data() + 40 * kK, 24, kK), pool);

  DenseWeight weight = testing::dense_weight(values, kM, kK, pool);
  prune_wanda(weight, norms.norms("w"), {PrunePattern{}, PruneScope::kRow, 0.6}, pool);
  const std::vector<float> pruned = testing::floats_of(weight);
  for (std::int64_t i = 0; i < kM; ++i) {
    std::vector<double> score(kK);
    for (std::int64_t j = 0; j < kK; ++j) {
      double square = 0;
      for (std::int64_t t = 0; t < 64; ++t) {
        const double v = x[static_cast<std::size_t>(t * kK + j)];
        square += v * v;
      }
      score[static_cast<std::size_t>(j)] =
          std::fabs(values[static_cast<std::size_t>(i * kK + j)]) * std::sqrt(square);
    }
    std::vector<std::size_t> order(kK);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return score[a] < score[b]; });
    for (std::size_t rank = 0; rank < kK; ++rank) {
      const auto at = static_cast<std::size_t>(i * kK) + order[rank];
      EXPECT_EQ(pruned[at], rank < 24 ? 0.0F : values[at]) << i << " " << order[rank];
    }
  }
}

TEST(Wanda, LosesLessOutputThanMagnitude) {
  ThreadPool pool(2);
  const std::vector<float> values = testing::normal_values(kM * kK, 3);
  const std::vector<float> x = testing::correlated_inputs(128, kK, 4);
  InputNorms norms(kK);
  norms.add(matrix_ref(x.data(), 128, kK), pool);
  const MaskRule rule{PrunePattern{}, PruneScope::kRow, 0.5};
  DenseWeight wanda = testing::dense_weight(values, kM, kK, pool);
  prune_wanda(wanda, norms.norms("w"), rule, pool);
  DenseWeight magnitude = testing::dense_weight(values, kM, kK, pool);
  prune_magnitude(magnitude, rule, pool);
  EXPECT_LT(testing::squared_output_change(values, testing::floats_of(wanda), x, kM, kK),
            0.5 * testing::squared_output_change(values, testing::floats_of(magnitude), x, kM, kK));
}

TEST(Wanda, DeadInputsGoFirst) {
  ThreadPool pool(2);
  const std::vector<float> values(kM * kK, 3.0F);
  std::vector<float> x(8 * kK, 1.0F);
  for (std::int64_t t = 0; t < 8; ++t) x[static_cast<std::size_t>(t * kK + 17)] = 0;
  InputNorms norms(kK);
  norms.add(matrix_ref(x.data(), 8, kK), pool);
  DenseWeight weight = testing::dense_weight(values, kM, kK, pool);
  prune_wanda(weight, norms.norms("w"), {PrunePattern{}, PruneScope::kRow, 1.0 / kK}, pool);
  const std::vector<float> pruned = testing::floats_of(weight);
  for (std::size_t i = 0; i < pruned.size(); ++i) EXPECT_EQ(pruned[i] == 0, i % kK == 17);
}

TEST(Wanda, NamesTheWeightWhoseInputsAreNotFinite) {
  ThreadPool pool(1);
  std::vector<float> x(2 * kK, 1.0F);
  x[3] = std::numeric_limits<float>::infinity();
  InputNorms norms(kK);
  norms.add(matrix_ref(x.data(), 2, kK), pool);
  try {
    (void)norms.norms("model.layers.1.mlp.down_proj.weight");
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(),
                 "model.layers.1.mlp.down_proj.weight: expected finite calibration inputs, found "
                 "norm inf of input 3");
  }
}

TEST(Wanda, SumsAreTheSameForAnyNumberOfThreads) {
  const std::vector<float> x = testing::correlated_inputs(50, kK, 5);
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    InputNorms norms(kK);
    norms.add(matrix_ref(x.data(), 50, kK), pool);
    results.push_back(norms.norms("w"));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

}  // namespace
}  // namespace rarefy::compress
