#include "planner/search.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "fakes.h"

namespace rarefy::planning::testing {
namespace {

class Search : public ::testing::Test {
 protected:
  SearchResult run(TrialRunner* runner) {
    return search({weight, pattern, request, {}, kernels, kCeilings, 1}, runner);
  }
  static const Candidate& find(const Plan& plan, const std::string& kernel, std::int64_t n) {
    const auto found =
        std::find_if(plan.candidates.begin(), plan.candidates.end(), [&](const Candidate& c) {
          return c.kernel == kernel && c.n == n && c.reason != "another format";
        });
    if (found == plan.candidates.end()) throw std::logic_error("no candidate " + kernel);
    return *found;
  }

  HalfOnes weight;
  PatternStats pattern = pattern_stats(weight);
  PlanRequest request;
  FakeKernel dense{"dense.fake", format::kDense, microseconds(100)};
  FakeKernel bitmap{"bitmap.fake", format::kBitmap, microseconds(60)};
  FakeKernel csr{"csr.fake", format::kCsr16, microseconds(50)};
  FakeKernel delta{"delta.fake", format::kDelta8, microseconds(5000)};
  std::vector<const SpmmKernel*> kernels{&dense, &bitmap, &csr, &delta};
};

TEST_F(Search, MeasurementOverrulesTheEstimate) {
  ScriptedRunner runner;
  runner.set("dense.fake", 1, 100);
  runner.set("bitmap.fake", 1, 40);
  runner.set("csr.fake", 1, 90);
  const SearchResult result = run(&runner);
  EXPECT_TRUE(result.complete);
  EXPECT_EQ(result.plan.format, format::kBitmap);
  EXPECT_EQ(result.plan.bytes, 1000U);  // As the runner packed it.
  EXPECT_EQ(result.plan.step(1).kernel, "bitmap.fake");
  EXPECT_DOUBLE_EQ(result.plan.step(1).time_us, 40);
  EXPECT_DOUBLE_EQ(result.plan.step(1).dense_us, 100);
}

TEST_F(Search, WithoutARunnerTheEstimateDecides) {
  const SearchResult result = run(nullptr);
  EXPECT_EQ(result.plan.format, format::kCsr16);
  EXPECT_EQ(find(result.plan, "csr.fake", 1).measured_us, 0);
  EXPECT_NEAR(find(result.plan, "csr.fake", 1).estimate_us, 50, 3);
}

TEST_F(Search, HopelessCandidatesAreNotMeasured) {
  ScriptedRunner runner;  // Has no time for delta.fake: running it would throw.
  runner.set("dense.fake", 1, 100);
  runner.set("bitmap.fake", 1, 40);
  runner.set("csr.fake", 1, 90);
  const Plan plan = run(&runner).plan;
  EXPECT_NE(find(plan, "delta.fake", 1).reason.find("not measured: estimate"), std::string::npos);
}

TEST_F(Search, MeasuresNoMorePairsThanAsked) {
  request.measure_best = 1;
  ScriptedRunner runner;
  runner.set("dense.fake", 1, 100);
  runner.set("csr.fake", 1, 90);
  const Plan plan = run(&runner).plan;
  EXPECT_EQ(plan.format, format::kCsr16);
  EXPECT_EQ(find(plan, "bitmap.fake", 1).measured_us, 0);
}

TEST_F(Search, MeasureBestZeroMeasuresNothing) {
  request.measure_best = 0;
  ScriptedRunner runner;
  run(&runner);
  EXPECT_TRUE(runner.order.empty());
}

TEST_F(Search, NeverChoosesSparseThatIsNotFaster) {
  ScriptedRunner runner;
  runner.set("dense.fake", 1, 100);
  runner.set("bitmap.fake", 1, 101);
  runner.set("csr.fake", 1, 99.5);
  const Plan plan = run(&runner).plan;
  EXPECT_EQ(plan.format, format::kDense);
  EXPECT_EQ(plan.step(1).kernel, "dense.fake");
}

TEST_F(Search, AFormatThatFailsToPackDropsOutWithItsMessage) {
  ScriptedRunner runner;
  runner.set("dense.fake", 1, 100);
  runner.set("bitmap.fake", 1, 80);
  runner.cannot_pack["csr16"] = "row 3 is too long";
  const Plan plan = run(&runner).plan;
  EXPECT_EQ(plan.format, format::kBitmap);
  EXPECT_EQ(find(plan, "csr.fake", 1).reason, "row 3 is too long");
}

TEST_F(Search, TheTimeBudgetEndsTheMeasurement) {
  request.time_budget_s = 0.5;
  ScriptedRunner runner;
  runner.seconds_per_run = 1;
  runner.set("dense.fake", 1, 100);
  runner.set("bitmap.fake", 1, 40);
  runner.set("csr.fake", 1, 30);
  const SearchResult result = run(&runner);
  EXPECT_FALSE(result.complete);
  EXPECT_LT(runner.clock, 7);  // One round of three, begun in time.
  EXPECT_FALSE(result.plan.steps.empty());
}

TEST_F(Search, ExactBytesDecideABudget) {
  // By the estimate the bitmap takes 8736 bytes, the others more than 12000.
  request.memory_budget = 9000;
  ScriptedRunner runner;
  runner.set("bitmap.fake", 1, 40);
  runner.bytes["bitmap"] = 9500;
  EXPECT_THROW(run(&runner), Error);
  runner.bytes["bitmap"] = 8900;
  EXPECT_EQ(run(&runner).plan.format, format::kBitmap);
}

TEST_F(Search, NothingFitsIsAnErrorThatSaysHowMuchIsNeeded) {
  request.memory_budget = 16;
  try {
    run(nullptr);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kOutOfMemory);
    EXPECT_NE(std::string(error.what()).find("got 16 bytes"), std::string::npos) << error.what();
  }
}

TEST_F(Search, OneFormatForDecodeAndPrefill) {
  request.workloads = {{1, 1.0}, {128, 0.05}};
  ScriptedRunner runner;
  runner.set("dense.fake", 1, 100);
  runner.set("dense.fake", 128, 1000);
  runner.set("bitmap.fake", 1, 40);
  runner.set("bitmap.fake", 128, 1100);
  runner.set("csr.fake", 1, 90);
  runner.set("csr.fake", 128, 500);
  const Plan plan = run(&runner).plan;
  EXPECT_EQ(plan.format, format::kBitmap);
  EXPECT_DOUBLE_EQ(plan.step(1).time_us, 40);
  EXPECT_DOUBLE_EQ(plan.step(128).time_us, 1100);
  EXPECT_DOUBLE_EQ(plan.step(128).dense_us, 1000);
}

TEST_F(Search, RequestedFormatsRestrictTheSearchButDenseStays) {
  request.formats = {format::kCsr16};
  const Plan plan = run(nullptr).plan;
  for (const Candidate& c : plan.candidates) {
    EXPECT_TRUE(c.format.format == Format::kDense || c.format == format::kCsr16) << c.format.name();
  }
  EXPECT_EQ(find(plan, "dense.fake", 1).n, 1);
}

TEST_F(Search, ChooseAgainTakesAnotherFormatWithTheSameTimes) {
  ScriptedRunner runner;
  runner.set("dense.fake", 1, 100);
  runner.set("bitmap.fake", 1, 40);
  runner.set("csr.fake", 1, 90);
  const Plan first = run(&runner).plan;
  request.formats = {format::kCsr16};
  const Plan again = choose_again({weight, pattern, request, {}, kernels, kCeilings, 1}, first);
  EXPECT_EQ(again.format, format::kCsr16);
  EXPECT_DOUBLE_EQ(again.step(1).time_us, 90);
  EXPECT_DOUBLE_EQ(again.step(1).dense_us, 100);
}

}  // namespace
}  // namespace rarefy::planning::testing
