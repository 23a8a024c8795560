#include "planner/plan_cache.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <thread>
#include <vector>

#include "base/cache_folder.h"
#include "base/files.h"
#include "temporary_folder.h"

namespace rarefy::planning::testing {
namespace {

CachedPlan example(std::size_t bytes = 600) {
  Plan plan;
  plan.format = format::bsr(16, 32);
  plan.bytes = bytes;
  plan.dense_bytes = 1000;
  plan.steps = {{.n_min = 1, .n_max = 16, .kernel = "a", .time_us = 1.5, .dense_us = 3},
                {.n_min = 17, .kernel = "b", .time_us = 10, .dense_us = 30}};
  plan.candidates = {{.format = format::bsr(16, 32),
                      .kernel = "a",
                      .n = 1,
                      .bytes = bytes,
                      .estimate_us = 2,
                      .measured_us = 1.5,
                      .noise = 0.01,
                      .chosen = true},
                     {.format = format::kDense, .kernel = "d", .n = 1, .reason = "slower: \"é\""}};
  return {plan, {.measured_best = 4, .time_budget_s = 2, .complete = false}};
}

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

TEST(PlanCache, RoundTrip) {
  const TemporaryFolder folder;
  const PlanCache cache(folder.path() / "deep" / "down");
  const Json key{{"k", 1}};
  EXPECT_FALSE(cache.find_plan(key));
  cache.store_plan(key, example());
  const auto found = cache.find_plan(key);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->plan.format, format::bsr(16, 32));
  EXPECT_EQ(found->plan.bytes, 600U);
  ASSERT_EQ(found->plan.steps.size(), 2U);
  EXPECT_EQ(found->plan.steps[1].n_max, std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(found->plan.candidates[1].reason, "slower: \"é\"");
  EXPECT_TRUE(found->plan.candidates[0].chosen);
  EXPECT_EQ(found->effort.measured_best, 4);
  EXPECT_FALSE(found->effort.complete);
  EXPECT_FALSE(cache.find_plan({{"k", 2}}));
}

TEST(PlanCache, CeilingsRoundTripAndMustBeSane) {
  const TemporaryFolder folder;
  const PlanCache cache(folder.path());
  const Json key{{"cpu", "x"}};
  cache.store_ceilings(key, {{40, 200, 3}, 1'700'000'000, 2});
  const auto found = cache.find_ceilings(key);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->best.dram_gb_per_s, 40);
  EXPECT_EQ(found->best.ghz, 3);
  EXPECT_EQ(found->measured_at, 1'700'000'000);
  EXPECT_EQ(found->times, 2);
  cache.store_ceilings(key, {{0, 200, 3}});
  EXPECT_FALSE(cache.find_ceilings(key));
}

TEST(PlanCache, ScalesRoundTrip) {
  const TemporaryFolder folder;
  const PlanCache cache(folder.path());
  const Json key{{"cpu", "x"}};
  const SpmmKernel& kernel = *spmm_kernels().front();
  const SpmmProblem problem{.m = 64, .k = 64, .n = 1};
  EXPECT_EQ(cache.find_scales(key).of(kernel, format::kDense, problem, false), 1);
  KernelScales scales;
  scales.learn(kernel, format::kDense, problem, false, 1.5);
  cache.store_scales(key, scales);
  EXPECT_EQ(cache.find_scales(key).of(kernel, format::kDense, problem, false), 1.5);
  for (const char* value : {"{}", "[{}]", "3", "null"}) {
    Json entry = Json::parse(read_text(cache.path_of("scales", key)));
    entry["value"] = Json::parse(value);
    write(cache.path_of("scales", key), entry.dump());
    EXPECT_EQ(cache.find_scales(key).of(kernel, format::kDense, problem, false), 1) << value;
  }
}

TEST(PlanCache, WhateverIsWrongWithAnEntryIsAMiss) {
  const TemporaryFolder folder;
  const PlanCache cache(folder.path());
  const Json key{{"k", 1}};
  const std::filesystem::path path = cache.path_of("plan", key);
  cache.store_plan(key, example());
  const std::string good = read_text(path);
  ASSERT_TRUE(cache.find_plan(key));

  for (std::size_t length = 0; length < good.size() - 1; length += 7) {
    write(path, good.substr(0, length));
    EXPECT_FALSE(cache.find_plan(key)) << "cut at " << length;
  }
  const auto changed = [&](const char* pointer, const Json& value) {
    Json entry = Json::parse(good);
    entry[Json::json_pointer(pointer)] = value;
    write(path, entry.dump());
    return cache.find_plan(key).has_value();
  };
  EXPECT_FALSE(changed("/version", 999));
  EXPECT_FALSE(changed("/version", "1"));
  EXPECT_FALSE(changed("/key", Json{{"k", 2}}));  // A collision of hashes, or a copied file.
  EXPECT_FALSE(changed("/value/plan/format", "origami"));
  EXPECT_FALSE(changed("/value/plan/steps/0/n_min", 2));
  EXPECT_FALSE(changed("/value/plan/steps/1/n_min", 18));
  EXPECT_FALSE(changed("/value/plan/steps", Json::array()));
  EXPECT_FALSE(changed("/value/plan/steps/0/time_us", -1));
  EXPECT_FALSE(changed("/value/plan/candidates/0/n", "one"));
  EXPECT_FALSE(changed("/value/effort", nullptr));
  EXPECT_TRUE(changed("/value/plan/bytes", 601));
  for (const char* text : {"", "[]", "null", "{}", "\xff\xfe", "{\"version\":1}", "42"}) {
    write(path, text);
    EXPECT_FALSE(cache.find_plan(key)) << text;
  }
}

TEST(PlanCache, AFolderInPlaceOfAnEntryIsAMiss) {
  const TemporaryFolder folder;
  const PlanCache cache(folder.path());
  const Json key{{"k", 1}};
  std::filesystem::create_directories(cache.path_of("plan", key));
  EXPECT_FALSE(cache.find_plan(key));
  EXPECT_NO_THROW(cache.store_plan(key, example()));
}

TEST(PlanCache, NoFolderKeepsNothing) {
  const PlanCache cache{std::filesystem::path()};
  EXPECT_NO_THROW(cache.store_plan({{"k", 1}}, example()));
  EXPECT_FALSE(cache.find_plan({{"k", 1}}));
}

TEST(PlanCache, AFolderThatCannotBeWrittenIsNoError) {
  const TemporaryFolder folder;
  // A file where the folder should be: fails for root, too, whom permissions do not stop.
  write(folder.path() / "file", "x");
  const PlanCache cache(folder.path() / "file" / "cache");
  EXPECT_NO_THROW(cache.store_plan({{"k", 1}}, example()));
  EXPECT_FALSE(cache.find_plan({{"k", 1}}));
}

TEST(PlanCache, StoresLeaveNoTemporaryFiles) {
  const TemporaryFolder folder;
  const PlanCache cache(folder.path());
  for (int i = 0; i < 3; ++i) cache.store_plan({{"k", 1}}, example());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

/// Writes and reads one key as fast as it can; every hit must be one of the plans written.
bool hammer(const PlanCache& cache, int writer) {
  const Json key{{"shared", true}};
  for (int i = 0; i < 20; ++i) {
    cache.store_plan(key, example(static_cast<std::size_t>(1000 * writer + i)));
    const auto found = cache.find_plan(key);
    if (!found || found->plan.candidates.front().bytes != found->plan.bytes) return false;
  }
  return true;
}

TEST(PlanCache, ThreadsMayShareAFolder) {
  const TemporaryFolder folder;
  const PlanCache cache(folder.path());
  std::vector<char> fine(4, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] { fine[static_cast<std::size_t>(t)] = hammer(cache, t) ? 1 : 0; });
  for (std::thread& thread : threads) thread.join();
  for (char ok : fine) EXPECT_EQ(ok, 1);
}

TEST(PlanCache, ProcessesMayShareAFolder) {
  const TemporaryFolder folder;
  std::vector<pid_t> children;
  for (int p = 0; p < 3; ++p) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) _exit(hammer(PlanCache(folder.path()), p) ? 0 : 1);
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
}

/// Sets an environment variable for a while.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    const char* old = std::getenv(name);
    if (old != nullptr) old_ = old;
    had_ = old != nullptr;
    set(value);
  }
  ~Environment() { set(had_ ? old_.c_str() : nullptr); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  void set(const char* value) const {
    if (value != nullptr) {
      setenv(name_, value, 1);
    } else {
      unsetenv(name_);
    }
  }
  const char* name_;
  std::string old_;
  bool had_ = false;
};

TEST(CacheFolder, FollowsTheEnvironment) {
  const Environment own("RAREFY_CACHE", nullptr);
  const Environment xdg("XDG_CACHE_HOME", nullptr);
  const Environment home("HOME", "/home/someone");
  EXPECT_EQ(cache_folder(), "/home/someone/.cache/rarefy");
  const Environment xdg_set("XDG_CACHE_HOME", "/cache");
  EXPECT_EQ(cache_folder(), "/cache/rarefy");
  const Environment own_set("RAREFY_CACHE", "/own");
  EXPECT_EQ(cache_folder(), "/own");
  const Environment own_empty("RAREFY_CACHE", "");
  const Environment xdg_empty("XDG_CACHE_HOME", "");
  const Environment no_home("HOME", nullptr);
  EXPECT_EQ(cache_folder(), "");
}

}  // namespace
}  // namespace rarefy::planning::testing
