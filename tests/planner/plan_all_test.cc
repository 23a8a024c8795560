// Many weights under one budget.
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "planner/ceilings.h"
#include "planner/plan_cache.h"
#include "rarefy/planner.h"
#include "temporary_folder.h"

namespace rarefy {
namespace {

class PlanAll : public ::testing::Test {
 protected:
  PlanAll() {
    // Memory so fast and a clock so slow that estimates prefer dense: every saved byte costs time.
    planning::PlanCache(folder.path())
        .store_ceilings(planning::machine_key(pool.size()), {{1e6, 1e6, 0.1}});
    std::mt19937 random(5);
    std::uniform_real_distribution<double> unit;
    for (double density : {0.05, 0.3, 0.6}) {
      std::vector<float>& values = weights.emplace_back(128 * 256);
      for (float& v : values) v = unit(random) < density ? 1.0F : 0.0F;
      sources.emplace_back(ConstMatrixRef{values.data(), DType::kF32, 128, 256, 256});
    }
    for (std::size_t i = 0; i < sources.size(); ++i)
      jobs.push_back({"w" + std::to_string(i), &sources[i], nullptr});
  }
  static std::size_t bytes(const std::vector<Plan>& plans) {
    return std::accumulate(plans.begin(), plans.end(), std::size_t{0},
                           [](std::size_t sum, const Plan& p) { return sum + p.bytes; });
  }

  planning::testing::TemporaryFolder folder;
  ThreadPool pool{1};
  Planner planner{{.cache_dir = folder.path(), .freeze = true}, pool};
  PlanRequest request;
  std::vector<std::vector<float>> weights;
  std::vector<DenseSource> sources;
  std::vector<PlanJob> jobs;
};

TEST_F(PlanAll, WithoutABudgetEveryWeightHasItsOwnPlan) {
  const std::vector<Plan> plans = planner.plan_all(jobs, request);
  ASSERT_EQ(plans.size(), 3U);
  for (std::size_t i = 0; i < plans.size(); ++i)
    EXPECT_EQ(plans[i].format, planner.plan(sources[i], request).format);
}

TEST_F(PlanAll, ABudgetOverAllHolds) {
  const std::size_t free = bytes(planner.plan_all(jobs, request));
  std::size_t smallest = 0;
  for (const DenseSource& source : sources) {
    PlanRequest least = request;
    for (least.memory_budget = 1;; least.memory_budget += 1024) {
      try {
        smallest += planner.plan(source, least).bytes;
        break;
      } catch (const Error&) {
        continue;
      }
    }
  }
  ASSERT_LT(smallest, free);
  for (const double share : {0.9, 0.5, 0.05}) {
    request.memory_budget = smallest +
                            static_cast<std::size_t>(share * static_cast<double>(free - smallest)) +
                            3 * 1024;
    const std::vector<Plan> plans = planner.plan_all(jobs, request);
    EXPECT_LE(bytes(plans), request.memory_budget);
    for (const Plan& plan : plans) {
      EXPECT_FALSE(plan.steps.empty());
      int chosen = 0;
      for (const Candidate& c : plan.candidates) chosen += c.chosen ? 1 : 0;
      EXPECT_EQ(chosen, 1);
    }
  }
}

TEST_F(PlanAll, GivesUpTheCheapestBytesFirst) {
  const std::size_t free = bytes(planner.plan_all(jobs, request));
  request.memory_budget = free - 1;
  const std::vector<Plan> plans = planner.plan_all(jobs, request);
  // One byte too many takes one switch; the others keep their plans.
  int switched = 0;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    PlanRequest alone = request;
    alone.memory_budget = PlanRequest{}.memory_budget;
    switched += plans[i].format == planner.plan(sources[i], alone).format ? 0 : 1;
  }
  EXPECT_EQ(switched, 1);
}

TEST_F(PlanAll, AnImpossibleBudgetIsAnError) {
  request.memory_budget = 1000;
  try {
    planner.plan_all(jobs, request);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kOutOfMemory);
    EXPECT_NE(std::string(error.what()).find("1000"), std::string::npos);
  }
}

TEST_F(PlanAll, ReportsProgressAndNamesMissingWeights) {
  struct Recorder final : Progress {
    std::vector<std::string> details;
    void update(std::string_view, std::int64_t, std::int64_t, std::string_view detail) override {
      details.emplace_back(detail);
    }
  } recorder;
  planner.plan_all(jobs, request, recorder);
  EXPECT_EQ(recorder.details, (std::vector<std::string>{"w0", "w1", "w2", ""}));
  jobs.push_back({"lost", nullptr, nullptr});
  EXPECT_THROW(planner.plan_all(jobs, request), Error);
  EXPECT_TRUE(planner.plan_all({}, request).empty());
}

}  // namespace
}  // namespace rarefy
