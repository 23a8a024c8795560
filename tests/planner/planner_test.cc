// The planner as callers see it, with real kernels on small weights.
#include "rarefy/planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "planner/ceilings.h"
#include "planner/plan_cache.h"
#include "rarefy/log.h"
#include "temporary_folder.h"

namespace rarefy {
namespace {

using planning::testing::TemporaryFolder;

class PlannerTest : public ::testing::Test {
 protected:
  PlannerTest() {
    // Ceilings at hand: measuring them takes half a second and a gigabyte.
    planning::PlanCache(folder.path())
        .store_ceilings(planning::machine_key(pool.size()), {{40, 200, 3}});
    request.working_set = 0;     // Weights of a few kilobytes stay in cache.
    request.time_budget_s = 20;  // Sanitizers are slow; the early stop ends it sooner.
  }
  ~PlannerTest() override { set_log({}); }

  [[nodiscard]] Planner planner(bool freeze = false) {
    return Planner({.cache_dir = folder.path(), .freeze = freeze}, pool);
  }
  static std::vector<float> values_of(std::int64_t rows, std::int64_t cols, double density,
                                      unsigned seed = 1) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> unit;
    std::vector<float> values(static_cast<std::size_t>(rows * cols));
    for (float& v : values) v = unit(random) < density ? static_cast<float>(unit(random) + 0.5) : 0;
    return values;
  }
  static DenseSource source_of(const std::vector<float>& values, std::int64_t cols) {
    const auto rows = static_cast<std::int64_t>(values.size()) / cols;
    return DenseSource({values.data(), DType::kF32, rows, cols, cols});
  }
  [[nodiscard]] std::size_t entries() const {
    std::size_t count = 0;
    for (const auto& file : std::filesystem::directory_iterator(folder.path()))
      count += file.path().filename().string().starts_with("plan-") ? 1 : 0;
    return count;
  }

  TemporaryFolder folder;
  ThreadPool pool{2};
  PlanRequest request;
  std::vector<float> values = values_of(192, 256, 0.1);
  DenseSource weight = source_of(values, 256);
};

TEST_F(PlannerTest, ASecondPlannerFindsThePlan) {
  const Plan first = planner().plan(weight, request);
  EXPECT_FALSE(first.from_cache);
  EXPECT_EQ(entries(), 1U);
  const Plan second = planner().plan(weight, request);
  EXPECT_TRUE(second.from_cache);
  EXPECT_EQ(second.format, first.format);
  ASSERT_EQ(second.steps.size(), first.steps.size());
  for (std::size_t i = 0; i < first.steps.size(); ++i)
    EXPECT_EQ(second.steps[i].kernel, first.steps[i].kernel);
  EXPECT_EQ(second.candidates.size(), first.candidates.size());
}

TEST_F(PlannerTest, OneCandidateIsChosenAndTheOthersSayWhyNot) {
  const Plan plan = planner().plan(weight, request);
  int chosen = 0;
  bool dense = false;
  for (const Candidate& c : plan.candidates) {
    chosen += c.chosen ? 1 : 0;
    EXPECT_NE(c.chosen, !c.reason.empty()) << c.format.name() << " " << c.kernel;
    dense = dense || (c.format.format == Format::kDense && c.measured_us > 0);
  }
  EXPECT_EQ(chosen, 1);
  EXPECT_TRUE(dense);
  EXPECT_EQ(plan.dense_bytes, values.size() * sizeof(float));
}

TEST_F(PlannerTest, PlansRunAndAreRight) {
  for (std::int64_t n : {1, 5, 40}) {
    request.workloads = {{n, 1.0}};
    Planner p = planner();
    const Linear linear = make_linear(std::make_shared<DenseSource>(weight), p, request, pool);
    const std::vector<float> b = values_of(n, 256, 1, 9);
    std::vector<float> c(static_cast<std::size_t>(n * 192));
    std::vector<double> expected(c.size());
    SpmmArgs args;
    args.b = matrix_ref(b.data(), n, 256);
    args.c = matrix_ref(c.data(), n, 192);
    linear.run(args, pool);
    args.c = {expected.data(), DType::kF64, n, 192, 192};
    spmm_reference(weight, args);
    // Sums of some 26 products of size 1, exact to 2^-16 and summed in f32.
    for (std::size_t i = 0; i < c.size(); ++i) EXPECT_NEAR(c[i], expected[i], 2e-3) << n;
  }
}

TEST_F(PlannerTest, TheSameRecipeOnAnotherWeightSharesThePlan) {
  const std::vector<float> other = values_of(192, 256, 0.1, 2);
  Planner p = planner();
  request.measure_best = 1;
  // Densities that fall on either side of a step would make two classes; exact ones do not.
  std::vector<float> a(192 * 256, 0.0F);
  std::vector<float> b(192 * 256, 0.0F);
  for (std::size_t i = 0; i < a.size(); i += 10) a[i] = b[i] = 1;
  std::swap(b[0], b[1]);
  p.plan(source_of(a, 256), request);
  EXPECT_TRUE(p.plan(source_of(b, 256), request).from_cache);
}

TEST_F(PlannerTest, AWeightThatChangedIsPlannedAgain) {
  request.measure_best = 1;
  Planner p = planner();
  const Plan first = p.plan(weight, request);
  EXPECT_EQ(first.rows, 192);
  EXPECT_EQ(first.cols, 256);
  EXPECT_EQ(first.nnz, pattern_stats(weight, pool).nnz);
  // Half of what was left: no plan from the cache, and one that knows this weight.
  const std::vector<float> thinner = values_of(192, 256, 0.05);
  const Plan again = p.plan(source_of(thinner, 256), request);
  EXPECT_FALSE(again.from_cache);
  EXPECT_EQ(again.nnz, pattern_stats(source_of(thinner, 256), pool).nnz);
  EXPECT_EQ(p.plan(weight, request).nnz, first.nnz);  // From the cache, and of the first.
}

TEST_F(PlannerTest, SearchesTeachTheEstimates) {
  request.measure_best = 2;
  const Plan first = planner().plan(weight, request);
  // The reference of all ratios: without noise, and dense.
  const auto reference =
      std::find_if(first.candidates.begin(), first.candidates.end(),
                   [](const Candidate& c) { return c.measured_us > 0 && c.noise == 0; });
  ASSERT_NE(reference, first.candidates.end());
  for (const auto& file : std::filesystem::directory_iterator(folder.path())) {
    if (file.path().filename().string().starts_with("plan-")) std::filesystem::remove(file);
  }
  // Another process estimates what this one measured.
  const Plan estimated = planner(true).plan(weight, request);
  for (const Candidate& c : estimated.candidates) {
    if (c.kernel != reference->kernel || c.format != reference->format) continue;
    EXPECT_NEAR(c.estimate_us, reference->measured_us, 1e-6 * c.estimate_us);
  }
}

TEST_F(PlannerTest, OtherProblemsAreMisses) {
  Planner p = planner();
  request.measure_best = 1;
  p.plan(weight, request);
  const auto hit = [&](const PlanRequest& r) {
    PlanRequest frozen = r;
    frozen.measure_best = 0;  // Looks only; an estimate is not stored.
    return p.plan(weight, frozen).from_cache;
  };
  EXPECT_TRUE(hit(request));
  PlanRequest other = request;
  other.workloads = {{64, 1.0}};
  EXPECT_FALSE(hit(other));
  other = request;
  other.workloads = {{1, 1.0}, {64, 0.1}};
  EXPECT_FALSE(hit(other));
  other = request;
  other.activations = DType::kBF16;
  EXPECT_FALSE(hit(other));
  other = request;
  other.precision = Precision::kBf16;
  EXPECT_FALSE(hit(other));
  other = request;
  other.formats = {format::kCsr32};
  EXPECT_FALSE(hit(other));
  other = request;
  other.working_set = std::size_t{1} << 40;
  EXPECT_FALSE(hit(other));
  other = request;
  other.memory_budget = values.size() * sizeof(float) - 1;
  EXPECT_FALSE(hit(other));
  EXPECT_EQ(entries(), 1U);
}

TEST_F(PlannerTest, AnotherPoolIsAnotherMachine) {
  planner().plan(weight, request);
  ThreadPool one(1);
  planning::PlanCache(folder.path()).store_ceilings(planning::machine_key(1), {{20, 100, 3}});
  Planner p({.cache_dir = folder.path(), .freeze = true}, one);
  EXPECT_FALSE(p.plan(weight, request).from_cache);
}

TEST_F(PlannerTest, MoreEffortSearchesAgain) {
  request.measure_best = 1;
  Planner p = planner();
  p.plan(weight, request);
  EXPECT_TRUE(p.plan(weight, request).from_cache);
  request.measure_best = 2;
  EXPECT_FALSE(p.plan(weight, request).from_cache);
  request.measure_best = 1;
  EXPECT_TRUE(p.plan(weight, request).from_cache);
}

TEST_F(PlannerTest, FrozenPlannersNeverMeasure) {
  const Plan estimated = planner(true).plan(weight, request);
  EXPECT_FALSE(estimated.from_cache);
  EXPECT_EQ(entries(), 0U);
  for (const Candidate& c : estimated.candidates) EXPECT_EQ(c.measured_us, 0);
  const Plan measured = planner().plan(weight, request);
  const Plan again = planner(true).plan(weight, request);
  EXPECT_TRUE(again.from_cache);
  EXPECT_EQ(again.format, measured.format);
}

TEST_F(PlannerTest, TheEnvironmentFreezes) {
  setenv("RAREFY_FREEZE", "1", 1);
  Planner p = planner();
  unsetenv("RAREFY_FREEZE");
  const Plan plan = p.plan(weight, request);
  for (const Candidate& c : plan.candidates) EXPECT_EQ(c.measured_us, 0);
}

TEST_F(PlannerTest, FrozenWithoutCeilingsAssumesOrdinaryOnes) {
  const TemporaryFolder empty;
  Planner p({.cache_dir = empty.path(), .freeze = true}, pool);
  EXPECT_GT(p.ceilings().dram_gb_per_s, 0);
  EXPECT_TRUE(std::filesystem::is_empty(empty.path()));
}

TEST_F(PlannerTest, CeilingsComeFromTheCache) {
  EXPECT_EQ(planner().ceilings().dram_gb_per_s, 40);
  EXPECT_EQ(planner().ceilings().ghz, 3);
}

TEST_F(PlannerTest, ExplainsWhenAsked) {
  std::string log;
  set_log([&](std::string_view line) { log += std::string(line) + "\n"; });
  planner(true).plan(weight, request);
  EXPECT_EQ(log, "");
  setenv("RAREFY_EXPLAIN", "1", 1);
  Planner p = planner(true);
  unsetenv("RAREFY_EXPLAIN");
  const Plan plan = p.plan(weight, request);
  EXPECT_EQ(log, describe(plan));
  EXPECT_NE(log.find("dense"), std::string::npos);
}

TEST_F(PlannerTest, WithoutACacheNothingIsKept) {
  Planner p({.cache_dir = folder.path(), .use_cache = false, .freeze = true}, pool);
  p.plan(weight, request);
  EXPECT_EQ(entries(), 0U);
}

TEST_F(PlannerTest, BudgetsHold) {
  Planner p = planner(true);
  const std::size_t dense = values.size() * sizeof(float);
  request.memory_budget = dense / 4;
  const Plan plan = p.plan(weight, request);
  EXPECT_NE(plan.format.format, Format::kDense);
  EXPECT_LE(plan.bytes, request.memory_budget);
  EXPECT_LE(pack(weight, plan.format, pool)->bytes(), request.memory_budget);
  request.memory_budget = 100;
  EXPECT_THROW(p.plan(weight, request), Error);
}

TEST_F(PlannerTest, ADenseWeightStaysDense) {
  const std::vector<float> full = values_of(192, 256, 1.0);
  const Plan plan = planner(true).plan(source_of(full, 256), request);
  EXPECT_EQ(plan.format.format, Format::kDense);
}

TEST_F(PlannerTest, OddShapesAndEmptyWeights) {
  Planner p = planner();
  request.measure_best = 2;
  for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {1, 1}, {1, 300}, {300, 1}, {17, 33}, {0, 8}, {8, 0}}) {
    std::vector<float> some = values_of(rows, cols, 0.5);
    some.resize(some.size() + 1);  // Not null when empty.
    const DenseSource source({some.data(), DType::kF32, rows, cols, cols});
    const Plan plan = p.plan(source, request);
    EXPECT_FALSE(plan.steps.empty()) << rows << "x" << cols;
    EXPECT_NO_THROW(make_linear(std::make_shared<DenseSource>(source), plan, pool));
  }
  const std::vector<float> zeros(64 * 64, 0.0F);
  EXPECT_NO_THROW(p.plan(source_of(zeros, 64), request));
}

TEST_F(PlannerTest, BadRequestsAreRefused) {
  Planner p = planner(true);
  const auto refused = [&](std::vector<Workload> workloads) {
    request.workloads = std::move(workloads);
    EXPECT_THROW(p.plan(weight, request), Error);
  };
  refused({});
  refused({{0, 1.0}});
  refused({{1, -1.0}});
  refused({{1, std::nan("")}});
  refused({{1, 0.0}, {2, 0.0}});
  request.workloads = {{1, 1.0}};
  PatternStats foreign;
  foreign.rows = 1;
  EXPECT_THROW(p.plan(weight, foreign, request), Error);
}

TEST_F(PlannerTest, ACorruptEntryIsSearchedAgain) {
  planner().plan(weight, request);
  for (const auto& file : std::filesystem::directory_iterator(folder.path())) {
    if (file.path().filename().string().starts_with("plan-")) std::ofstream(file.path()) << "{";
  }
  EXPECT_FALSE(planner().plan(weight, request).from_cache);
  EXPECT_TRUE(planner().plan(weight, request).from_cache);
}

TEST_F(PlannerTest, PackedBytesAreCloseToTheEstimate) {
  const PatternStats pattern = pattern_stats(weight, pool);
  for (const FormatSpec& format :
       {format::kDense, format::kCsr32, format::kCsr16, format::kBitmap, format::kDelta8}) {
    if (!can_pack(format, 192, 256, DType::kF32)) continue;
    const auto exact = static_cast<double>(pack(weight, format, pool)->bytes());
    const auto estimate = static_cast<double>(estimate_packed_bytes(format, pattern, DType::kF32));
    EXPECT_NEAR(estimate / exact, 1.0, 0.15) << format.name();
  }
}

}  // namespace
}  // namespace rarefy
