#include "planner/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "fakes.h"

namespace rarefy::planning::testing {
namespace {

const FakeKernel kSlow("slow", format::kDense, microseconds(1));
const FakeKernel kFast("fast", format::kBitmap, microseconds(1));
const FakeKernel kWorse("worse", format::kCsr32, microseconds(1));

const std::vector<Trial> kTrials{
    {format::kDense, &kSlow, 1}, {format::kBitmap, &kFast, 1}, {format::kCsr32, &kWorse, 1}};

const FakeKernel kTiles("tiles", format::dense_tiles(16, 16), microseconds(1));

/// The first two are references.
const std::vector<Trial> kTwoReferences{{format::kDense, &kSlow, 1},
                                        {format::dense_tiles(16, 16), &kTiles, 1},
                                        {format::kBitmap, &kFast, 1}};

TEST(Median, OddEvenAndNone) {
  std::vector<double> odd{3, 1, 2};
  std::vector<double> even{4, 1, 3, 2};
  EXPECT_EQ(median(odd), 2);
  EXPECT_EQ(median(even), 2.5);
  EXPECT_EQ(median({}), 0);
}

TEST(Sample, ReportsMedians) {
  ScriptedRunner runner;
  runner.set("slow", 1, 100);
  runner.set("fast", 1, 50);
  runner.set("worse", 1, 90);
  const auto timings = sample(runner, kTrials, {});
  EXPECT_DOUBLE_EQ(timings[0].median_us, 100);
  EXPECT_DOUBLE_EQ(timings[1].median_us, 50);
  EXPECT_NEAR(timings[2].median_us, 90, 1e-9);
}

TEST(Sample, DriftThatHitsAllAlikeCancels) {
  // The machine slows down by half after the second round: ratios within a round stay.
  ScriptedRunner runner;
  runner.times[{"slow", 1}] = [](int i) { return i < 3 ? 100.0 : 150.0; };
  runner.times[{"fast", 1}] = [](int i) { return i < 3 ? 80.0 : 120.0; };
  const auto timings = sample(runner, std::span(kTrials).first(2), {.max_rounds = 9});
  EXPECT_NEAR(timings[1].median_us / timings[0].median_us, 0.8, 1e-9);
  EXPECT_LT(timings[1].noise, 0.01);
}

TEST(Sample, OneBurstDoesNotMoveTheMedian) {
  ScriptedRunner runner;
  runner.set("slow", 1, 100);
  runner.times[{"fast", 1}] = [](int i) { return i == 2 ? 5000.0 : 80.0; };
  const auto timings = sample(runner, std::span(kTrials).first(2), {});
  EXPECT_NEAR(timings[1].median_us, 80, 1e-9);
}

TEST(Sample, RetiresWhatIsClearlySlowerButNeverTheOnlyReference) {
  ScriptedRunner runner;
  runner.set("slow", 1, 400);
  runner.times[{"fast", 1}] = [](int i) { return 100.0 + i % 3; };
  runner.set("worse", 1, 300);
  const auto timings = sample(runner, kTrials, {.min_rounds = 3, .max_rounds = 12});
  EXPECT_TRUE(timings[2].dropped);
  EXPECT_EQ(timings[2].samples, 3);
  EXPECT_FALSE(timings[0].dropped);
  EXPECT_GT(timings[0].samples, 3);
}

TEST(Sample, StopsWhenTheWinnerIsKnown) {
  ScriptedRunner runner;
  runner.set("slow", 1, 400);
  runner.set("fast", 1, 100);
  sample(runner, std::span(kTrials).first(2), {.min_rounds = 3, .max_rounds = 100});
  EXPECT_LE(runner.rounds, 5);
}

/// Equal medians, and so much noise that twenty rounds cannot tell.
double noisy(int i) {
  constexpr double kTimes[] = {70, 130, 85, 115, 100, 60, 140};
  return kTimes[i % 7];
}

TEST(Sample, KeepsSamplingWhileContendersAreWithinTheNoise) {
  ScriptedRunner runner;
  runner.set("slow", 1, 100);
  runner.times[{"fast", 1}] = noisy;
  sample(runner, std::span(kTrials).first(2), {.max_rounds = 20, .most_rounds = 20});
  EXPECT_EQ(runner.rounds, 20);
}

TEST(Sample, ObeysTheDeadline) {
  ScriptedRunner runner;
  runner.seconds_per_run = 1;
  runner.set("slow", 1, 100);
  runner.times[{"fast", 1}] = noisy;
  const auto timings =
      sample(runner, std::span(kTrials).first(2), {.max_rounds = 1000, .deadline_s = 10});
  EXPECT_LE(runner.clock, 12);
  EXPECT_GT(timings[0].samples, 0);
}

TEST(Sample, RunsTheLeastRoundsPastTheDeadline) {
  ScriptedRunner runner;
  runner.seconds_per_run = 1;
  runner.set("slow", 1, 100);
  runner.times[{"fast", 1}] = noisy;
  const auto timings =
      sample(runner, std::span(kTrials).first(2), {.deadline_s = 1, .latest_s = 20});
  EXPECT_EQ(timings[1].samples, 3);
  EXPECT_EQ(runner.clock, 8);  // Two runs to warm up, three rounds of two.
}

TEST(Sample, GoesOnPastTheDeadlineWhileNoiseHidesALead) {
  // 30 % faster in most rounds, and noise that three rounds cannot see through.
  const auto rounds = [](double fast, double worth_knowing) {
    ScriptedRunner runner;
    runner.set("slow", 1, 100);
    runner.times[{"fast", 1}] = [fast](int i) { return fast * noisy(i) / 100; };
    sample(runner, std::span(kTrials).first(2),
           {.min_rounds = 3,
            .max_rounds = 15,
            .deadline_s = -1,
            .latest_s = 1e300,
            .worth_knowing = worth_knowing,
            .most_rounds = 15});
    return runner.rounds;
  };
  EXPECT_GT(rounds(75, 0.02), 3);
  EXPECT_LT(rounds(75, 0.02), 15) << "ends when the lead is beyond the noise";
  EXPECT_EQ(rounds(130, 0.02), 3) << "no lead, nothing to know";
  EXPECT_EQ(rounds(75, 0.5), 3) << "not a lead that matters";
}

TEST(Sample, ADeadlineInThePastMeasuresNothing) {
  ScriptedRunner runner;
  runner.clock = 5;
  const auto timings = sample(runner, kTrials, {.deadline_s = 1});
  for (const Timing& timing : timings) EXPECT_EQ(timing.samples, 0);
  EXPECT_TRUE(runner.order.empty());
}

TEST(Sample, EveryRoundStartsWithAnotherTrial) {
  ScriptedRunner runner;
  for (const char* name : {"slow", "fast", "worse"}) runner.set(name, 1, 100);
  sample(runner, kTrials, {.min_rounds = 9, .max_rounds = 9});
  ASSERT_EQ(runner.order.size(), 30U);  // Three warm-up runs, then nine rounds.
  std::set<std::string> behind_slow;
  const char* const names[] = {"slow", "fast", "worse"};
  for (std::size_t round = 0; round < 9; ++round) {
    const auto begin = runner.order.begin() + 3 + static_cast<std::ptrdiff_t>(3 * round);
    EXPECT_EQ(*begin, names[round % 3]);
    EXPECT_EQ(std::set<std::string>(begin, begin + 3).size(), 3U);
    for (auto at = begin; at + 1 != begin + 3; ++at) {
      if (*at == "slow") behind_slow.insert(*(at + 1));
    }
  }
  EXPECT_EQ(behind_slow.size(), 2U) << "the same one always follows";
}

TEST(Sample, KernelsOfOneFormatRunOnWeightsOfTheirOwn) {
  // Run on the same packed weight, the second would find it in the caches.
  const FakeKernel other("other", format::kDense, microseconds(1));
  std::vector<Trial> trials = kTrials;
  trials.push_back({format::kDense, &other, 1});
  ScriptedRunner runner;
  for (const char* name : {"slow", "fast", "worse", "other"}) runner.set(name, 1, 100);
  sample(runner, trials, {});
  EXPECT_EQ(runner.slots["slow"], 0);
  EXPECT_EQ(runner.slots["fast"], 0);
  EXPECT_EQ(runner.slots["other"], 1);
}

TEST(Sample, EveryPassRunsEveryTrialOnce) {
  ScriptedRunner runner;
  runner.passes = 4;
  for (const char* name : {"slow", "fast", "worse"}) runner.set(name, 1, 100);
  const auto timings = sample(runner, kTrials, {.min_rounds = 3, .max_rounds = 3});
  EXPECT_EQ(runner.rounds, 3);
  EXPECT_EQ(timings[1].samples, 12);
  ASSERT_EQ(runner.order.size(), 3U + 12 * 3);  // Three warm-up runs first.
  for (auto at = runner.order.begin() + 3; at != runner.order.end(); at += 3)
    EXPECT_EQ(std::set<std::string>(at, at + 3).size(), 3U);
}

TEST(Sample, AKernelThatGainsFromRunningAgainDoesNotShowIt) {
  // As a library whose threads still spin after its last call: 100 us then, 180 us after others.
  ScriptedRunner runner;
  runner.passes = 8;
  const auto& order = runner.order;
  runner.times[{"slow", 1}] = [&order](int) {
    return order.size() > 1 && order[order.size() - 2] == "slow" ? 100.0 : 180.0;
  };
  runner.set("fast", 1, 150);
  runner.set("worse", 1, 170);
  const auto timings = sample(runner, kTrials, {});
  EXPECT_NEAR(timings[0].median_us, 180, 1e-9);
  EXPECT_NEAR(timings[1].median_us, 150, 1e-9);
}

TEST(Sample, RatiosAreOfThePass) {
  // Every second pass finds the machine three times as slow.
  ScriptedRunner runner;
  runner.passes = 2;
  runner.times[{"slow", 1}] = [](int i) { return i % 2 == 0 ? 100.0 : 300.0; };
  runner.times[{"fast", 1}] = [](int i) { return i % 2 == 0 ? 90.0 : 270.0; };
  const auto timings = sample(runner, std::span(kTrials).first(2), {});
  EXPECT_NEAR(timings[1].median_us / timings[0].median_us, 0.9, 1e-9);
  EXPECT_LT(timings[1].noise, 1e-9);
}

TEST(Sample, TheFastestReferenceIsTheOneToBeat) {
  // The first reference is slow and noisy; that says nothing about the second and its rival.
  ScriptedRunner runner;
  runner.times[{"slow", 1}] = [](int i) { return 2 * noisy(i); };
  runner.set("tiles", 1, 100);
  runner.set("fast", 1, 90);
  const auto timings = sample(runner, kTwoReferences, {.references = 2, .min_rounds = 9});
  EXPECT_DOUBLE_EQ(timings[1].median_us, 100);
  EXPECT_EQ(timings[1].noise, 0);
  EXPECT_NEAR(timings[2].median_us, 90, 1e-9);
  EXPECT_LT(timings[2].noise, 1e-9);
  EXPECT_GT(timings[0].noise, 0.05);
}

TEST(Sample, NoiseWithoutALeadMayHideOne) {
  // Equal medians so far, and bursts; the calm that follows shows a lead of 10 %.
  ScriptedRunner runner;
  runner.set("slow", 1, 100);
  runner.times[{"fast", 1}] = [](int i) { return i < 16 ? noisy(i) : 90.0; };
  const auto two = std::span(kTrials).first(2);
  const auto timings = sample(runner, two, {.max_rounds = 15, .most_rounds = 60});
  EXPECT_GT(runner.rounds, 15);
  EXPECT_NEAR(timings[1].median_us, 90, 1e-9);
  EXPECT_LT(timings[1].median_us * (1 + 2 * timings[1].noise), 102);

  ScriptedRunner calm;
  calm.set("slow", 1, 100);
  calm.times[{"fast", 1}] = [](int i) { return 100.0 + (i % 3 - 1); };
  sample(calm, two, {.max_rounds = 15, .most_rounds = 60});
  EXPECT_LE(calm.rounds, 15) << "nothing hides in 1 %";
}

TEST(Sample, TheBestMayOwnTheNoise) {
  // Known exactly, and 4 % behind one that is known to 10: either may be the faster.
  ScriptedRunner runner;
  runner.set("slow", 1, 100);
  runner.times[{"fast", 1}] = [](int i) { return 0.5 * noisy(i); };
  runner.set("worse", 1, 52);
  const auto timings = sample(runner, kTrials, {.max_rounds = 12});
  EXPECT_EQ(timings[1].samples, 12);
  EXPECT_EQ(timings[2].samples, 12);
}

TEST(Sample, ASlowReferenceRetires) {
  ScriptedRunner runner;
  runner.set("slow", 1, 300);
  runner.set("tiles", 1, 100);
  runner.times[{"fast", 1}] = noisy;
  const auto timings =
      sample(runner, kTwoReferences, {.references = 2, .max_rounds = 12, .most_rounds = 12});
  EXPECT_TRUE(timings[0].dropped);
  EXPECT_EQ(timings[0].samples, 3);
  EXPECT_NEAR(timings[0].median_us, 300, 1e-9);
  EXPECT_EQ(timings[1].samples, 12);
}

TEST(Sample, GoesOnWhileNoiseHidesALeadOverTheFastestReference) {
  // Far ahead of the first reference, in the noise beside the second: not decided.
  ScriptedRunner runner;
  runner.set("slow", 1, 300);
  runner.set("tiles", 1, 100);
  runner.times[{"fast", 1}] = [](int i) { return 0.8 * noisy(i); };
  const SamplingOptions options{
      .references = 2, .min_rounds = 3, .max_rounds = 60, .deadline_s = -1, .latest_s = 1e300};
  const auto timings = sample(runner, kTwoReferences, options);
  EXPECT_GT(timings[2].samples, 3);
  EXPECT_LT(timings[2].samples, 60);
  EXPECT_LT(timings[2].median_us * (1 + 2 * timings[2].noise), 102);
}

TEST(Sample, NoTrialsGiveNoTimings) {
  ScriptedRunner runner;
  EXPECT_TRUE(sample(runner, {}, {}).empty());
}

}  // namespace
}  // namespace rarefy::planning::testing
