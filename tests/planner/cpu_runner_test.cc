#include "planner/cpu_runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "fakes.h"

namespace rarefy::planning::testing {
namespace {

/// Element (r, c) is r.
class RowNumbers final : public RowSource {
 public:
  explicit RowNumbers(std::int64_t rows) : rows_(rows) {}
  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return 3; }
  [[nodiscard]] DType dtype() const override { return DType::kF32; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    auto* to = static_cast<float*>(out);
    for (std::int64_t r = begin; r < end; ++r) {
      for (int c = 0; c < 3; ++c) *to++ = static_cast<float>(r);
    }
  }

 private:
  std::int64_t rows_;
};

std::vector<int> rows_of(const RowSource& source) {
  std::vector<float> values(static_cast<std::size_t>(source.rows() * source.cols()));
  source.read_rows(0, source.rows(), values.data());
  std::vector<int> rows;
  for (std::size_t i = 0; i < values.size(); i += 3) rows.push_back(static_cast<int>(values[i]));
  return rows;
}

TEST(SampledRows, TakesWholeGroupsEvenlySpread) {
  const RowNumbers source(64 * 10);
  const SampledRows sample(source, 100);  // Two groups.
  const std::vector<int> rows = rows_of(sample);
  ASSERT_EQ(rows.size(), 128U);
  for (int i = 0; i < 64; ++i) {
    EXPECT_EQ(rows[static_cast<std::size_t>(i)], i);
    EXPECT_EQ(rows[static_cast<std::size_t>(64 + i)], 64 * 5 + i);
  }
  EXPECT_FALSE(sample.whole());
}

TEST(SampledRows, ReadsAcrossGroups) {
  const RowNumbers source(64 * 10);
  const SampledRows sample(source, 300);
  const std::vector<int> all = rows_of(sample);
  std::vector<float> part(3 * 100);
  sample.read_rows(50, 150, part.data());
  for (std::size_t i = 0; i < 100; ++i) EXPECT_EQ(static_cast<int>(part[3 * i]), all[50 + i]);
}

TEST(SampledRows, AllRowsWhenThereAreNoMore) {
  const RowNumbers source(130);
  const SampledRows sample(source, 129);
  EXPECT_TRUE(sample.whole());
  const std::vector<int> rows = rows_of(sample);
  ASSERT_EQ(rows.size(), 130U);
  EXPECT_EQ(rows.back(), 129);
}

TEST(SampledRows, StaysInsideRaggedSources) {
  const RowNumbers source(64 * 3 + 5);
  const SampledRows sample(source, 128);
  for (int row : rows_of(sample)) EXPECT_LT(row, 64 * 3);
}

TEST(CpuRunner, PacksRunsAndScalesToTheWholeWeight) {
  const HalfOnes weight(1024, 64);
  PlanRequest request;
  request.working_set = 0;  // From cache: no eviction.
  request.workloads = {{3, 1.0}};
  Evictor evictor;
  ThreadPool pool(1);
  CpuRunner runner(weight, request, evictor, pool);
  EXPECT_EQ(runner.prepare(format::kDense), 1024U * 64 * sizeof(float));
  const SpmmProblem problem{.m = 1024, .k = 64, .n = 3, .weight = DType::kF32, .threads = 1};
  for (const SpmmKernel* kernel : spmm_kernels()) {
    if (!kernel->supports(format::kDense, problem)) continue;
    EXPECT_GE(runner.begin_round(), 1);
    for (int slot : {0, 1})
      EXPECT_GT(runner.run({format::kDense, kernel, 3}, slot, 0), 0) << kernel->name();
  }
  EXPECT_GT(runner.elapsed_s(), 0);
}

/// Takes 3 ms for a call and 4 us for a row, by the clock; every third call of few rows 30 ms more.
class SlowKernel final : public SpmmKernel {
 public:
  static constexpr std::int64_t kFew = 64;
  [[nodiscard]] std::string_view name() const override { return "slow"; }
  [[nodiscard]] Isa isa() const override { return Isa::kPortable; }
  [[nodiscard]] Support supports(const FormatSpec&, const SpmmProblem&) const override {
    return Support::yes();
  }
  [[nodiscard]] SpmmCost cost(const FormatSpec&, const PatternStats&,
                              const SpmmProblem&) const override {
    return {};
  }
  void run(const Matrix& a, const SpmmArgs&, ThreadPool&) const override {
    const bool late = stumbles && a.rows() == kFew && few_calls++ % 3 == 2;
    rows = std::max(rows, a.rows());
    std::this_thread::sleep_for(std::chrono::microseconds(3000 + 4 * a.rows() + 30000 * late));
  }
  bool stumbles = false;
  mutable std::int64_t rows = 0;  ///< The most that a call had.
  mutable int few_calls = 0;
};

PlanRequest cold_request(std::int64_t n) {
  PlanRequest request;
  request.workloads = {{n, 1.0}};
  return request;
}

TEST(CpuRunner, WhatACallTakesForItsActivationsIsNotMultiplied) {
  const HalfOnes weight(SampledRows::kGroup * 120, 16384);
  const PlanRequest request = cold_request(16);
  Evictor evictor;
  ThreadPool pool(2);
  CpuRunner runner(weight, request, evictor, pool);
  SlowKernel kernel;
  // The whole weight takes 34 ms; eight times the sample's 7 would be 55. A busy machine's sleeps
  // end late, but not all of them.
  std::vector<double> us;
  for (int pass = 0; pass < 5; ++pass)
    us.push_back(runner.run({format::kCsr32, &kernel, 16}, 0, pass));
  EXPECT_GT(*std::max_element(us.begin(), us.end()), 28e3);
  EXPECT_LT(*std::min_element(us.begin(), us.end()), 45e3);
  EXPECT_EQ(kernel.rows, SampledRows::kGroup * 120 / 8) << "not a whole part";
  // A single column has next to no activations.
  EXPECT_GT(runner.run({format::kCsr32, &kernel, 1}, 0, 0), 50e3);
  // One late call of few rows does not make all the others' rows free: 7 ms.
  kernel.stumbles = true;
  for (int pass = 0; pass < 3; ++pass)
    EXPECT_GT(runner.run({format::kCsr32, &kernel, 16}, 0, pass), 14e3) << "pass " << pass;
}

TEST(CpuRunner, ASampleOfALargeWeightStandsForAllOfIt) {
  const HalfOnes weight(64 * 40, 16384);  // 168 MB dense, were it packed whole.
  PlanRequest request;
  request.working_set = 0;
  Evictor evictor;
  ThreadPool pool(2);
  CpuRunner runner(weight, request, evictor, pool);
  const auto whole = static_cast<double>(weight.rows() * weight.cols()) * sizeof(float);
  EXPECT_NEAR(static_cast<double>(runner.prepare(format::kDense)), whole, 1e-6 * whole);
}

}  // namespace
}  // namespace rarefy::planning::testing
