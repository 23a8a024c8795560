#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "rarefy/error.h"
#include "rarefy/generate.h"

namespace rarefy {
namespace {

const std::vector<float> kLogits{1.0F, 3.0F, 2.0F, 3.0F, -1.0F};

/// How often each id comes in `draws`.
std::map<TokenId, int> count(const Sampling& sampling, const std::vector<float>& logits, int draws,
                             const std::vector<TokenId>& history = {}) {
  Sampler sampler(sampling);
  std::map<TokenId, int> counts;
  for (int i = 0; i < draws; ++i) ++counts[sampler.draw(logits, history)];
  return counts;
}

TEST(Sampler, GreedyTakesTheLowestIdAmongEquals) {
  Sampler sampler(Sampling{});
  EXPECT_EQ(sampler.draw(kLogits, {}), 1);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  constexpr int kDraws = 40000;
  for (const float temperature : {0.5F, 1.0F, 2.0F}) {
    const auto counts = count({.temperature = temperature, .seed = 7}, kLogits, kDraws);
    double total = 0;
    for (const float logit : kLogits) total += std::exp(logit / temperature);
    for (std::size_t i = 0; i < kLogits.size(); ++i) {
      const double p = std::exp(kLogits[i] / temperature) / total;
      const auto found = counts.find(static_cast<TokenId>(i));
      const double got = found == counts.end() ? 0 : found->second;
      // Five standard deviations of a binomial draw.
      EXPECT_NEAR(got, kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p)) + 1) << i;
    }
  }
}

TEST(Sampler, TheSameSeedDrawsTheSameIdsOnEveryMachine) {
  Sampler sampler({.temperature = 1.0F, .seed = 42});
  std::vector<TokenId> ids;
  for (int i = 0; i < 12; ++i) ids.push_back(sampler.draw(kLogits, {}));
  // From splitmix64 by hand: its first outputs for 42 are 0.7416, 0.1599, 0.2786, 0.3442, ….
  EXPECT_EQ(ids[0], 3);
  EXPECT_EQ(ids[1], 1);
  EXPECT_EQ(ids[2], 1);
  EXPECT_EQ(ids[3], 1);
  Sampler again({.temperature = 1.0F, .seed = 42});
  for (const TokenId id : ids) EXPECT_EQ(again.draw(kLogits, {}), id);
}

TEST(Sampler, TopK) {
  const auto counts = count({.temperature = 5.0F, .top_k = 2, .seed = 1}, kLogits, 500);
  EXPECT_EQ(counts.size(), 2U);
  EXPECT_TRUE(counts.contains(1) && counts.contains(3));
  EXPECT_EQ(count({.temperature = 5.0F, .top_k = 1, .seed = 1}, kLogits, 50).size(), 1U);
  EXPECT_EQ(count({.temperature = 5.0F, .top_k = 99, .seed = 1}, kLogits, 3000).size(), 5U);
}

TEST(Sampler, TopPKeepsTheFewestThatHoldTheShare) {
  // Shares: 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits{std::log(2.0F), std::log(4.0F), 0.0F, 0.0F};
  const auto kept = [&](float p) {
    return count({.temperature = 1.0F, .top_p = p, .seed = 3}, logits, 2000).size();
  };
  EXPECT_EQ(kept(0.1F), 1U);
  EXPECT_EQ(kept(0.49F), 1U);
  EXPECT_EQ(kept(0.6F), 2U);
  EXPECT_EQ(kept(0.8F), 3U);
  EXPECT_EQ(kept(1.0F), 4U);
}

TEST(Sampler, TopPOverALongTail) {
  // A nucleus longer than the first sorted prefix: 1000 equal ids hold 0.5 and 500 are enough.
  const std::vector<float> logits(1000, 0.0F);
  const auto counts = count({.temperature = 1.0F, .top_p = 0.5F, .seed = 5}, logits, 20000);
  EXPECT_EQ(counts.size(), 500U);
  EXPECT_EQ(counts.rbegin()->first, 499);  // the lower ids among equals
}

TEST(Sampler, MinP) {
  // Shares relative to the largest: 1, 0.135, 0.37, 1, 0.018.
  const auto counts = count({.temperature = 1.0F, .min_p = 0.2F, .seed = 2}, kLogits, 2000);
  EXPECT_EQ(counts.size(), 3U);
  EXPECT_FALSE(counts.contains(0) || counts.contains(4));
}

TEST(Sampler, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogitsOnce) {
  // 3 / 2 = 1.5 for ids 1 and 3 leaves id 2 the largest; -1 · 2 moves id 4 away, not closer.
  Sampler greedy({.repetition_penalty = 2.0F});
  EXPECT_EQ(greedy.draw(kLogits, std::vector<TokenId>{1, 3, 3, 1, 4}), 2);
  EXPECT_EQ(greedy.draw(kLogits, std::vector<TokenId>{1}), 3);
  const std::vector<float> negative{-1.0F, -1.5F};
  EXPECT_EQ(greedy.draw(negative, std::vector<TokenId>{0}), 1);
  EXPECT_EQ(greedy.draw(kLogits, std::vector<TokenId>{-5, 77}), 1);  // ids of no logit
}

TEST(Sampler, ImpossibleIdsAreNeverDrawn) {
  const float inf = std::numeric_limits<float>::infinity();
  const auto counts = count({.temperature = 1.0F, .seed = 9}, {0.0F, -inf, 0.0F, -inf}, 500);
  EXPECT_EQ(counts.size(), 2U);
  EXPECT_FALSE(counts.contains(1) || counts.contains(3));
}

TEST(Sampler, RejectsValuesOutOfRangeAndNan) {
  EXPECT_THROW(Sampler({.temperature = -1.0F}), Error);
  EXPECT_THROW(Sampler({.temperature = std::nanf("")}), Error);
  EXPECT_THROW(Sampler({.top_k = -1}), Error);
  EXPECT_THROW(Sampler({.top_p = 0.0F}), Error);
  EXPECT_THROW(Sampler({.top_p = 1.5F}), Error);
  EXPECT_THROW(Sampler({.min_p = -0.1F}), Error);
  EXPECT_THROW(Sampler({.repetition_penalty = 0.0F}), Error);
  Sampler sampler(Sampling{});
  EXPECT_THROW(sampler.draw(std::vector<float>{1.0F, std::nanf("")}, {}), Error);
  EXPECT_THROW(sampler.draw(std::vector<float>{}, {}), Error);
}

}  // namespace
}  // namespace rarefy
