// Who is measured, and what is learned from it; no GPU needed.
#include "ops/spmm/cuda/candidate_order.h"

#include <gtest/gtest.h>

#include <vector>

namespace rarefy::gpu {
namespace {

const Problem kProblem{.m = 4096, .k = 4096, .n = 64, .weight = DType::kF16};

std::vector<Candidate> some_candidates() {
  std::vector<Candidate> all;
  for (const auto& [name, us] : {std::pair{"composed.a", 10.0},
                                 {"composed.b", 11.0},
                                 {"composed.c", 12.0},
                                 {"decode.wide.a", 30.0},
                                 {"decode.lane.a", 35.0},
                                 {"sliced.a", 41.0}})
    all.push_back({.name = name, .estimate_us = us});
  return all;
}

TEST(CandidateOrder, EveryFamilyLeadsThatIsNotHopeless) {
  EXPECT_EQ(leaders(some_candidates(), 2),
            (std::set<std::string>{"composed.a", "composed.b", "decode.wide.a", "decode.lane.a"}));
  EXPECT_TRUE(leaders(some_candidates(), 0).empty());
  EXPECT_TRUE(leaders({}, 2).empty());
}

TEST(CandidateOrder, LearnedEstimatesComeFirst) {
  FamilyScales scales;
  scales.learn("decode.lane.a", kProblem, 0.2);
  std::vector<Candidate> all = some_candidates();
  correct(all, kProblem, scales);
  EXPECT_EQ(all.front().name, "decode.lane.a");
  EXPECT_DOUBLE_EQ(all.front().estimate_us, 7);
  EXPECT_DOUBLE_EQ(all.back().estimate_us, 41);
}

TEST(CandidateOrder, LearnsTheFastestOfAFamilyOverItsPlainEstimate) {
  FamilyScales scales;
  scales.learn("composed.a", kProblem, 2);
  const std::vector<Tried> tried = {
      {.name = "composed.a", .estimate_us = 20, .measured_us = 40},
      {.name = "composed.b", .estimate_us = 22, .measured_us = 33},
      {.name = "sliced.a", .estimate_us = 41, .measured_us = 0},
      {.name = "decode.wide.a", .estimate_us = 30, .measured_us = 15}};
  learn(scales, kProblem, tried);
  // Of 2 and 33 / 22 · 2 the upper is the median.
  EXPECT_DOUBLE_EQ(scales.of("composed.a", kProblem), 3);
  EXPECT_DOUBLE_EQ(scales.of("decode.wide.b", kProblem), 0.5);
  EXPECT_DOUBLE_EQ(scales.of("sliced.a", kProblem), 1);
}

TEST(CandidateOrder, AFamilyThatWasLearnedWrongIsStillMeasured) {
  FamilyScales scales;
  scales.learn("composed.a", kProblem, 900);
  std::vector<Candidate> all = some_candidates();
  const std::set<std::string> leading = leaders(all, 2);
  correct(all, kProblem, scales);
  EXPECT_EQ(all.back().name, "composed.c");
  EXPECT_TRUE(leading.contains("composed.a"));
}

}  // namespace
}  // namespace rarefy::gpu
