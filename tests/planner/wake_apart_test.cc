#include "planner/wake_apart.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "rarefy/cpu.h"

namespace rarefy::planning::testing {
namespace {

double seconds_of(ThreadPool& pool) {
  const auto begin = std::chrono::steady_clock::now();
  wake_apart(pool);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST(WakeApart, GivesUpWhereThreadsCannotBeApart) {
  ThreadPool one(1);
  ThreadPool many(4 * cpu_info().cores);
  EXPECT_TRUE(wake_apart(one));
  EXPECT_FALSE(wake_apart(many));
  // A single job each, and the slices of a busy machine's other programs.
  EXPECT_LT(seconds_of(one), 1);
  EXPECT_LT(seconds_of(many), 1);
}

TEST(WakeApart, LeavesAPoolThatRunsJobs) {
  ThreadPool pool(std::max(cpu_info().cores, 2));
  EXPECT_LT(seconds_of(pool), 1);
  std::vector<int> ran(static_cast<std::size_t>(pool.size()));
  pool.run([&](int worker) { ran[static_cast<std::size_t>(worker)] = 1; });
  EXPECT_EQ(std::count(ran.begin(), ran.end(), 1), pool.size());
}

}  // namespace
}  // namespace rarefy::planning::testing
