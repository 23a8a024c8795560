#include "planner/choose.h"

#include <gtest/gtest.h>

#include "fakes.h"

namespace rarefy::planning::testing {
namespace {

const FakeKernel kDenseKernel("dense.fake", format::kDense, microseconds(1));
const FakeKernel kBitmapKernel("bitmap.fake", format::kBitmap, microseconds(1));
const FakeKernel kCsrKernel("csr.fake", format::kCsr32, microseconds(1));

Entry entry(const FormatSpec& format, const FakeKernel& kernel, std::int64_t n, double estimate,
            double measured, std::size_t bytes, double noise = 0) {
  return {.candidate = {.format = format,
                        .kernel = std::string(kernel.name()),
                        .n = n,
                        .bytes = bytes,
                        .estimate_us = estimate,
                        .measured_us = measured,
                        .noise = noise},
          .kernel = &kernel};
}
Entry dense(std::int64_t n, double estimate, double measured = 0) {
  return entry(format::kDense, kDenseKernel, n, estimate, measured, 1000);
}
Entry bitmap(std::int64_t n, double estimate, double measured = 0, double noise = 0) {
  return entry(format::kBitmap, kBitmapKernel, n, estimate, measured, 600, noise);
}
Entry csr(std::int64_t n, double estimate, double measured = 0) {
  return entry(format::kCsr32, kCsrKernel, n, estimate, measured, 300);
}

PlanRequest at(std::vector<Workload> workloads) {
  return {.workloads = std::move(workloads)};
}

TEST(ChooseFormat, TakesTheFastestMeasured) {
  std::vector<Entry> entries{dense(1, 100, 100), bitmap(1, 60, 55), csr(1, 50, 70)};
  EXPECT_EQ(choose_format(entries, at({{1, 1.0}})), format::kBitmap);
  EXPECT_TRUE(entries[1].candidate.chosen);
  EXPECT_TRUE(entries[1].candidate.reason.empty());
  EXPECT_EQ(entries[0].candidate.reason, "slower: 100 us against 55 us");
  EXPECT_EQ(entries[2].candidate.reason, "slower: 70 us against 55 us");
}

TEST(ChooseFormat, KeepsDenseWithinTheNoise) {
  std::vector<Entry> narrow{dense(1, 100, 100), bitmap(1, 60, 99)};
  EXPECT_EQ(choose_format(narrow, at({{1, 1.0}})), format::kDense);
  EXPECT_NE(narrow[1].candidate.reason.find("noise"), std::string::npos);

  // Two standard errors worse it would lose 4 %; 1 % is a risk worth taking.
  std::vector<Entry> noisy{dense(1, 100, 100), bitmap(1, 60, 90, 0.08)};
  EXPECT_EQ(choose_format(noisy, at({{1, 1.0}})), format::kDense);

  std::vector<Entry> certain{dense(1, 100, 100), bitmap(1, 60, 90, 0.06)};
  EXPECT_EQ(choose_format(certain, at({{1, 1.0}})), format::kBitmap);
}

TEST(ChooseFormat, OfEquallyFastOnesTheSmallest) {
  std::vector<Entry> equal{dense(1, 100, 100), bitmap(1, 50, 50), csr(1, 50, 51)};
  EXPECT_EQ(choose_format(equal, at({{1, 1.0}})), format::kCsr32);
  EXPECT_EQ(equal[1].candidate.reason, "as fast within the noise, but 0.0 MB against 0.0 MB");
  std::vector<Entry> slower{dense(1, 100, 100), bitmap(1, 50, 50), csr(1, 50, 53)};
  EXPECT_EQ(choose_format(slower, at({{1, 1.0}})), format::kBitmap);
  // Noise widens what counts as equal, but not without end.
  std::vector<Entry> noisy{dense(1, 100, 100), bitmap(1, 50, 50, 0.06), csr(1, 50, 53)};
  EXPECT_EQ(choose_format(noisy, at({{1, 1.0}})), format::kCsr32);
  std::vector<Entry> wild{dense(1, 100, 100), bitmap(1, 50, 50, 0.2), csr(1, 50, 60)};
  EXPECT_EQ(choose_format(wild, at({{1, 1.0}})), format::kBitmap);
}

TEST(ChooseFormat, TheSmallerWhereMeasurementAndEstimateDisagree) {
  // 6 % slower by this hour's measurement, faster by all that was learned: no reason for more
  // bytes.
  std::vector<Entry> disagreeing{dense(1, 100, 100), bitmap(1, 60, 50), csr(1, 50, 53)};
  EXPECT_EQ(choose_format(disagreeing, at({{1, 1.0}})), format::kCsr32);
  std::vector<Entry> agreeing{dense(1, 100, 100), bitmap(1, 50, 50), csr(1, 60, 53)};
  EXPECT_EQ(choose_format(agreeing, at({{1, 1.0}})), format::kBitmap);
  std::vector<Entry> apart{dense(1, 100, 100), bitmap(1, 60, 50), csr(1, 50, 55)};
  EXPECT_EQ(choose_format(apart, at({{1, 1.0}})), format::kBitmap);
}

TEST(ChooseFormat, OfEquallyFastDenseOnesTheLowerEstimate) {
  const FakeKernel tiles("dense_tiles.fake", format::dense_tiles(16, 16), microseconds(1));
  const auto tiled = [&](double estimate, double measured) {
    return entry(format::dense_tiles(16, 16), tiles, 1, estimate, measured, 1000);
  };
  std::vector<Entry> close{dense(1, 100, 100), tiled(90, 102)};
  EXPECT_EQ(choose_format(close, at({{1, 1.0}})), format::dense_tiles(16, 16));
  std::vector<Entry> apart{dense(1, 100, 100), tiled(90, 120)};
  EXPECT_EQ(choose_format(apart, at({{1, 1.0}})), format::kDense);
  // Noise is no excuse to take the slower: a plan may lose 2 % to dense, no more.
  std::vector<Entry> noisy{dense(1, 100, 100), tiled(90, 103)};
  noisy[1].candidate.noise = 0.08;
  EXPECT_EQ(choose_format(noisy, at({{1, 1.0}})), format::kDense);
}

TEST(BestOf, OfEquallyFastKernelsTheLowerEstimate) {
  const FakeKernel other("bitmap.other", format::kBitmap, microseconds(1));
  std::vector<Entry> entries{entry(format::kBitmap, kBitmapKernel, 1, 60, 50, 600),
                             entry(format::kBitmap, other, 1, 40, 50.5, 600)};
  EXPECT_EQ(best_of(entries, format::kBitmap, 1)->kernel, &other);
  entries[1].candidate.measured_us = 52;
  EXPECT_EQ(best_of(entries, format::kBitmap, 1)->kernel, &kBitmapKernel);
  entries[1].candidate.measured_us = 0;  // An estimate does not stand beside a measurement.
  EXPECT_EQ(best_of(entries, format::kBitmap, 1)->kernel, &kBitmapKernel);
}

TEST(ChooseFormat, NoiseCountsByTheWeightOfItsWorkload) {
  // Twice as fast at decode; prefill was sampled once, which says next to nothing.
  std::vector<Entry> entries{dense(1, 100, 100), dense(128, 100, 100), bitmap(1, 50, 50, 0.05),
                             bitmap(128, 90, 100, 1.0)};
  EXPECT_EQ(choose_format(entries, at({{1, 1.0}, {128, 0.05}})), format::kBitmap);
  std::vector<Entry> equal{dense(1, 100, 100), dense(128, 100, 100), bitmap(1, 50, 50, 0.05),
                           bitmap(128, 90, 100, 1.0)};
  EXPECT_EQ(choose_format(equal, at({{1, 1.0}, {128, 1.0}})), format::kDense);
}

TEST(ChooseFormat, AnEstimateAloneDoesNotBeatAMeasuredDense) {
  std::vector<Entry> entries{dense(1, 100, 100), bitmap(1, 10)};
  EXPECT_EQ(choose_format(entries, at({{1, 1.0}})), format::kDense);
  EXPECT_NE(entries[1].candidate.reason.find("not measured"), std::string::npos);
}

TEST(ChooseFormat, TrustsEstimatesWhereNothingWasMeasured) {
  std::vector<Entry> entries{dense(1, 100), bitmap(1, 60), csr(1, 80)};
  EXPECT_EQ(choose_format(entries, at({{1, 1.0}})), format::kBitmap);
  // But they must promise a tenth.
  std::vector<Entry> close{dense(1, 100), bitmap(1, 95)};
  EXPECT_EQ(choose_format(close, at({{1, 1.0}})), format::kDense);
}

TEST(ChooseFormat, WeighsSeveralN) {
  // bitmap: 0.5 of dense at decode, 1.5 at prefill; csr: 0.8 at both.
  const auto entries = [] {
    return std::vector<Entry>{dense(1, 100, 100),  dense(128, 100, 100), bitmap(1, 50, 50),
                              bitmap(128, 1, 150), csr(1, 80, 80),       csr(128, 80, 80)};
  };
  std::vector<Entry> decode = entries();
  EXPECT_EQ(choose_format(decode, at({{1, 1.0}, {128, 0.05}})), format::kBitmap);
  std::vector<Entry> prefill = entries();
  EXPECT_EQ(choose_format(prefill, at({{1, 0.05}, {128, 1.0}})), format::kCsr32);
  EXPECT_NE(prefill[2].candidate.reason.find("slower over all workloads: "), std::string::npos);
}

TEST(ChooseFormat, ABudgetThatDenseExceedsForcesASparseFormatThoughSlower) {
  std::vector<Entry> entries{dense(1, 100, 100), bitmap(1, 100, 120), csr(1, 100, 150)};
  PlanRequest request = at({{1, 1.0}});
  request.memory_budget = 700;
  EXPECT_EQ(choose_format(entries, request), format::kBitmap);
  EXPECT_NE(entries[0].candidate.reason.find("over the memory budget"), std::string::npos);
  request.memory_budget = 400;
  std::vector<Entry> tighter{dense(1, 100, 100), bitmap(1, 100, 120), csr(1, 100, 150)};
  EXPECT_EQ(choose_format(tighter, request), format::kCsr32);
}

TEST(ChooseFormat, NothingFitsTheBudget) {
  std::vector<Entry> entries{dense(1, 100, 100), csr(1, 100, 150)};
  PlanRequest request = at({{1, 1.0}});
  request.memory_budget = 10;
  EXPECT_EQ(choose_format(entries, request), std::nullopt);
}

TEST(ChooseFormat, AFormatWithoutAKernelAtSomeNIsOut) {
  std::vector<Entry> entries{dense(1, 100, 100), dense(128, 100, 100), bitmap(1, 10, 10)};
  EXPECT_EQ(choose_format(entries, at({{1, 1.0}, {128, 0.01}})), format::kDense);
  EXPECT_EQ(entries[2].candidate.reason, "no kernel of this format runs every workload");
}

TEST(ChooseFormat, OneKernelIsChosenForEveryN) {
  std::vector<Entry> entries{dense(1, 100, 100), dense(128, 100, 100), bitmap(1, 10, 10),
                             bitmap(128, 20, 20)};
  choose_format(entries, at({{1, 1.0}, {128, 1.0}}));
  int chosen = 0;
  for (const Entry& e : entries) {
    chosen += e.candidate.chosen ? 1 : 0;
    EXPECT_NE(e.candidate.chosen, !e.candidate.reason.empty()) << e.candidate.kernel;
  }
  EXPECT_EQ(chosen, 2);
}

TEST(ChooseFormat, TheBestDenseOfSeveralLayoutsIsTheRival) {
  const FakeKernel tiles("dense_tiles.fake", format::dense_tiles(16, 16), microseconds(1));
  std::vector<Entry> entries{dense(1, 100, 100),
                             entry(format::dense_tiles(16, 16), tiles, 1, 100, 60, 1000),
                             bitmap(1, 80, 80)};
  EXPECT_EQ(choose_format(entries, at({{1, 1.0}})), format::dense_tiles(16, 16));
}

TEST(RankFormats, OrdersByTheEstimatedObjective) {
  const std::vector<Entry> entries{dense(1, 100), bitmap(1, 60), csr(1, 40)};
  const auto ranked = rank_formats(entries, at({{1, 1.0}}));
  ASSERT_EQ(ranked.size(), 3U);
  EXPECT_EQ(ranked[0].format, format::kCsr32);
  EXPECT_DOUBLE_EQ(ranked[0].score, 0.4);
  EXPECT_EQ(ranked[2].format, format::kDense);
}

}  // namespace
}  // namespace rarefy::planning::testing
