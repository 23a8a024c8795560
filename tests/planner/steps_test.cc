#include <gtest/gtest.h>

#include <limits>

#include "fakes.h"

namespace rarefy::planning::testing {
namespace {

constexpr std::int64_t kEnd = std::numeric_limits<std::int64_t>::max();

class Steps : public ::testing::Test {
 protected:
  Plan plan(TrialRunner* runner) {
    request.formats = {format::kBitmap};
    request.memory_budget = 10'000;  // 64x64 f32: dense takes 16384.
    return search({weight, pattern, request, {}, kernels, kCeilings, 1}, runner).plan;
  }
  static void expect_covering(const Plan& plan) {
    std::int64_t next = 1;
    for (const PlanStep& step : plan.steps) {
      EXPECT_EQ(step.n_min, next);
      EXPECT_GE(step.n_max, step.n_min);
      next = step.n_max == kEnd ? 0 : step.n_max + 1;
    }
    EXPECT_EQ(next, 0);
  }

  HalfOnes weight;
  PatternStats pattern = pattern_stats(weight);
  PlanRequest request;
  // Per column against per call: they cross at n = 20.
  FakeKernel vector{"bitmap.vector", format::kBitmap,
                    [](std::int64_t n) { return 10'000.0 * static_cast<double>(n); }};
  FakeKernel matrix{"bitmap.matrix", format::kBitmap,
                    [](std::int64_t n) { return 190'000.0 + 500.0 * static_cast<double>(n); }};
  std::vector<const SpmmKernel*> kernels{&vector, &matrix};
};

TEST_F(Steps, EstimatesSplitTheRangeWhereTheKernelsCross) {
  request.workloads = {{1, 1.0}, {128, 1.0}};
  const Plan p = plan(nullptr);
  expect_covering(p);
  EXPECT_EQ(p.step(1).kernel, "bitmap.vector");
  EXPECT_EQ(p.step(16).kernel, "bitmap.vector");
  EXPECT_EQ(p.step(17).kernel, "bitmap.matrix");  // Bucket 17…32 is decided at 32.
  EXPECT_EQ(p.step(128).kernel, "bitmap.matrix");
  EXPECT_EQ(p.step(100'000).kernel, "bitmap.matrix");
}

TEST_F(Steps, MeasuredCrossover) {
  // Measured, the matrix kernel wins from 4 on.
  request.workloads = {{1, 1.0}, {128, 1.0}};
  ScriptedRunner runner;
  for (std::int64_t n : {1, 2, 4, 8, 16, 32, 64, 128}) {
    runner.set("bitmap.vector", n, 10.0 * static_cast<double>(n));
    runner.set("bitmap.matrix", n, 35);
  }
  const Plan p = plan(&runner);
  expect_covering(p);
  EXPECT_EQ(p.step(1).kernel, "bitmap.vector");
  EXPECT_EQ(p.step(2).kernel, "bitmap.vector");
  EXPECT_EQ(p.step(8).kernel, "bitmap.matrix");
  EXPECT_EQ(p.step(64).kernel, "bitmap.matrix");
}

TEST_F(Steps, EqualWinnersAreNotMeasuredInBetween) {
  request.workloads = {{1, 1.0}, {16, 1.0}};
  ScriptedRunner runner;
  for (std::int64_t n : {1, 16}) {
    runner.set("bitmap.vector", n, 10);
    runner.set("bitmap.matrix", n, 100);
  }
  const Plan p = plan(&runner);  // Any other n would throw.
  EXPECT_EQ(p.step(5).kernel, "bitmap.vector");
}

TEST_F(Steps, EachWorkloadKeepsItsOwnTimes) {
  request.workloads = {{1, 1.0}, {16, 1.0}};
  ScriptedRunner runner;
  runner.set("bitmap.vector", 1, 10);
  runner.set("bitmap.matrix", 1, 100);
  runner.set("bitmap.vector", 16, 20);
  runner.set("bitmap.matrix", 16, 100);
  const Plan p = plan(&runner);
  EXPECT_DOUBLE_EQ(p.step(1).time_us, 10);
  EXPECT_DOUBLE_EQ(p.step(16).time_us, 20);
}

TEST_F(Steps, KernelsKeepToTheNTheySupport) {
  FakeKernel small{"bitmap.small", format::kBitmap, microseconds(1), 1, 16};
  kernels = {&small, &matrix};
  request.workloads = {{1, 1.0}};
  const Plan p = plan(nullptr);
  expect_covering(p);
  EXPECT_EQ(p.step(16).kernel, "bitmap.small");
  EXPECT_EQ(p.step(17).kernel, "bitmap.matrix");
}

TEST_F(Steps, AnUnmeasuredKernelMustPromiseMoreThanAMeasuredOne) {
  // Everything measured ran at three times its estimate: the machine is slow, not these kernels.
  request.workloads = {{1, 1.0}};
  FakeKernel other{"bitmap.other", format::kBitmap,
                   [](std::int64_t n) { return 9'000.0 * static_cast<double>(n); }, 2};
  kernels = {&vector, &other};
  ScriptedRunner runner;
  runner.set("bitmap.vector", 1, 36);  // Estimated at 12.
  const Plan p = plan(&runner);
  EXPECT_EQ(p.step(16).kernel, "bitmap.vector");
}

TEST_F(Steps, WithoutAKernelTheDefaultIsTaken) {
  FakeKernel small{"bitmap.small", format::kBitmap, microseconds(1), 1, 16};
  kernels = {&small};
  request.workloads = {{1, 1.0}};
  const Plan p = plan(nullptr);
  expect_covering(p);
  EXPECT_EQ(p.step(17).kernel, "");
}

TEST_F(Steps, AWorkloadBeyondTheBucketsHasItsStep) {
  request.workloads = {{2048, 1.0}};
  const Plan p = plan(nullptr);
  expect_covering(p);
  EXPECT_EQ(p.step(2048).kernel, "bitmap.matrix");
  EXPECT_NEAR(p.step(2048).time_us, 190 + 0.5 * 2048, 5);
}

}  // namespace
}  // namespace rarefy::planning::testing
