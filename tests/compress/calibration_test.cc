#include "compress/calibration.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "compress/matrices.h"
#include "rarefy/error.h"

namespace rarefy::compress {
namespace {

TEST(DrawSamples, AreRunsOfTheStreamDrawnBySeed) {
  std::vector<TokenId> stream(1000);
  std::iota(stream.begin(), stream.end(), 0);
  const auto runs = draw_samples(stream, 40, 64, 7);
  ASSERT_EQ(runs.size(), 40);
  std::set<TokenId> starts;
  for (const std::span<const TokenId> run : runs) {
    ASSERT_EQ(run.size(), 64);
    for (std::size_t i = 1; i < run.size(); ++i) EXPECT_EQ(run[i], run[i - 1] + 1);
    starts.insert(run[0]);
  }
  EXPECT_GT(starts.size(), 30);
  const auto again = draw_samples(stream, 40, 64, 7);
  const auto other = draw_samples(stream, 40, 64, 8);
  bool differs = false;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    EXPECT_EQ(runs[i].data(), again[i].data());
    differs |= runs[i].data() != other[i].data();
  }
  EXPECT_TRUE(differs);
}

TEST(DrawSamples, AWholeStreamIsOneRun) {
  const std::vector<TokenId> stream{1, 2, 3};
  EXPECT_EQ(draw_samples(stream, 1, 3, 0)[0].size(), 3);
  EXPECT_THROW(draw_samples(stream, 1, 4, 0), Error);
  EXPECT_THROW(draw_samples(stream, 0, 3, 0), Error);
  EXPECT_THROW(draw_samples(stream, 1, 0, 0), Error);
}

TEST(InputKey, SharesWhatIsReadTogether) {
  const std::string layer = "model.layers.3.";
  EXPECT_EQ(input_key(layer + "self_attn.q_proj.weight"),
            input_key(layer + "self_attn.v_proj.weight"));
  EXPECT_EQ(input_key(layer + "mlp.gate_proj.weight"), input_key(layer + "mlp.up_proj.weight"));
  EXPECT_NE(input_key(layer + "self_attn.q_proj.weight"),
            input_key(layer + "self_attn.o_proj.weight"));
  EXPECT_NE(input_key(layer + "mlp.up_proj.weight"), input_key(layer + "mlp.down_proj.weight"));
}

TEST(InputSample, SpreadsOverAllTokens) {
  std::vector<float> x(30 * 2);
  for (std::size_t t = 0; t < 30; ++t) x[t * 2] = static_cast<float>(t);
  InputSample sample(2, 30, 8);  // Every fourth.
  for (std::int64_t t = 0; t < 30; t += 5) sample.add(matrix_ref(x.data() + t * 2, 5, 2));
  ASSERT_EQ(sample.rows().rows, 8);
  for (std::int64_t i = 0; i < 8; ++i)
    EXPECT_EQ(sample.rows().row<float>(i)[0], static_cast<float>(4 * i));
}

TEST(OutputError, IsTheShareOfTheOutputLost) {
  ThreadPool pool(2);
  constexpr std::int64_t kM = 70;  // More than one panel.
  constexpr std::int64_t kK = 12;
  const std::vector<float> before = testing::normal_values(kM * kK, 1);
  std::vector<float> after = before;
  for (std::size_t i = 0; i < after.size(); i += 2) after[i] = 0;
  const std::vector<float> x = testing::normal_values(20 * kK, 2);
  InputSample sample(kK, 20, 100);
  sample.add(matrix_ref(x.data(), 20, kK));
  const double expected =
      testing::squared_output_change(before, after, x, kM, kK) /
      testing::squared_output_change(before, std::vector<float>(before.size()), x, kM, kK);
  const DenseSource b(matrix_ref(before.data(), kM, kK));
  const DenseSource a(matrix_ref(after.data(), kM, kK));
  EXPECT_NEAR(output_error(b, a, sample, pool), expected, 1e-5 * expected);
  EXPECT_EQ(output_error(b, b, sample, pool), 0);
}

}  // namespace
}  // namespace rarefy::compress
