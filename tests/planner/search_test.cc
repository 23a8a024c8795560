#include "planner/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

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

TEST_F(Search, DenseThatIsFastOnlyAfterItselfLosesToDenseInTiles) {
  FakeKernel tiles{"dense_tiles.fake", format::dense_tiles(16, 16), microseconds(100)};
  kernels = {&dense, &tiles, &bitmap};
  ScriptedRunner runner;
  runner.passes = 8;
  runner.times[{"dense.fake", 1}] = [&order = runner.order](int) {
    return order.size() > 1 && order[order.size() - 2] == "dense.fake" ? 80.0 : 130.0;
  };
  runner.set("dense_tiles.fake", 1, 100);
  runner.set("bitmap.fake", 1, 99);
  const Plan plan = run(&runner).plan;
  EXPECT_EQ(plan.format, format::dense_tiles(16, 16));
  EXPECT_DOUBLE_EQ(plan.step(1).dense_us, 100);
}

TEST_F(Search, ALeadOverTheBetterDenseFormatIsKnownByItsOwnPairs) {
  // Bitmaps take 0.85 of the tiles in every pass; the dense rows beside them are slow and noisy.
  FakeKernel tiles{"dense_tiles.fake", format::dense_tiles(16, 16), microseconds(100)};
  kernels = {&dense, &tiles, &bitmap};
  ScriptedRunner runner;
  constexpr double kMachine[] = {1.0, 1.4, 0.8, 1.7, 1.1};
  runner.times[{"dense.fake", 1}] = [](int i) { return i % 2 == 0 ? 125.0 : 220.0; };
  runner.times[{"dense_tiles.fake", 1}] = [&](int i) { return 100 * kMachine[i % 5]; };
  runner.times[{"bitmap.fake", 1}] = [&](int i) { return 85 * kMachine[i % 5]; };
  const Plan plan = run(&runner).plan;
  EXPECT_EQ(plan.format, format::kBitmap);
  EXPECT_NEAR(plan.step(1).time_us / plan.step(1).dense_us, 0.85, 1e-9);
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

/// The rule, in worlds whose true times are known: every run is off by a few per cent, one in
/// twenty hits a burst, and the whole machine drifts. A plan that truly loses more than 2 % to
/// dense is to be rare, and one that gains much is to be found.
TEST_F(Search, SeldomLosesToDenseWhateverTheNoise) {
  std::mt19937 random(7);
  const auto unit = [&] { return static_cast<double>(random()) / 4294967296.0; };
  const auto normal = [&] {
    return std::sqrt(-2 * std::log(1 - unit())) * std::cos(2 * std::numbers::pi * unit());
  };
  for (const double sigma : {0.01, 0.03, 0.08}) {
    constexpr int kWorlds = 400;
    int losses = 0;
    int missed = 0;
    for (int world = 0; world < kWorlds; ++world) {
      ScriptedRunner runner;
      const double true_bitmap = 85 + 30 * unit();
      const double true_csr = 85 + 30 * unit();
      const auto script = [&](const char* name, double us) {
        runner.times[{name, 1}] = [&, us](int sample) {
          const double drift = sample % 4 < 2 ? 1.0 : 1.2;
          const double burst = unit() < 0.05 ? 1.2 + 0.8 * unit() : 1.0;
          return us * drift * burst * std::exp(sigma * normal());
        };
      };
      script("dense.fake", 100);
      script("bitmap.fake", true_bitmap);
      script("csr.fake", true_csr);
      const FormatSpec chosen = run(&runner).plan.format;
      const double us = chosen == format::kBitmap  ? true_bitmap
                        : chosen == format::kCsr16 ? true_csr
                                                   : 100;
      losses += us > 102 ? 1 : 0;
      missed += us - std::min(true_bitmap, true_csr) > 12 ? 1 : 0;
    }
    EXPECT_LE(losses, kWorlds / 100) << "noise " << sigma;
    EXPECT_LE(missed, sigma < 0.05 ? kWorlds / 100 : kWorlds / 5) << "noise " << sigma;
  }
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
