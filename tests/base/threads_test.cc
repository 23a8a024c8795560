#include "rarefy/threads.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/borrowed_threads.h"
#include "rarefy/error.h"

namespace rarefy {
namespace {

TEST(ThreadPool, EveryWorkerRunsOnce) {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.size(), threads);
    for (int round = 0; round < 50; ++round) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(threads));
      pool.run([&](int worker) { ++calls[static_cast<std::size_t>(worker)]; });
      for (const auto& count : calls) EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, RangesCoverEachItemOnce) {
  ThreadPool pool(3);
  for (std::int64_t count : {0, 1, 2, 3, 7, 1000}) {
    std::vector<std::atomic<int>> hits(static_cast<std::size_t>(count));
    const auto touch = [&](std::int64_t begin, std::int64_t end) {
      ASSERT_LT(begin, end);
      for (std::int64_t i = begin; i < end; ++i) ++hits[static_cast<std::size_t>(i)];
    };
    pool.parallel_for(count, touch);
    pool.parallel_dynamic(count, 4, touch);
    for (const auto& hit : hits) EXPECT_EQ(hit.load(), 2);
  }
}

TEST(ThreadPool, AnExceptionReachesTheCallerAndThePoolLivesOn) {
  ThreadPool pool(2);
  for (int thrower : {0, 1}) {
    EXPECT_THROW(pool.run([&](int worker) {
      if (worker == thrower) throw std::runtime_error("no");
    }),
                 std::runtime_error);
  }
  std::atomic<int> calls{0};
  pool.run([&](int) { ++calls; });
  EXPECT_EQ(calls.load(), 2);
}

TEST(ThreadPool, NestedJobsRunInline) {
  ThreadPool pool(2);
  std::atomic<int> calls{0};
  pool.run([&](int) { pool.run([&](int) { ++calls; }); });
  EXPECT_EQ(calls.load(), 4);
}

TEST(ThreadPool, TwoCallersTakeTurns) {
  ThreadPool pool(2);
  std::atomic<int> calls{0};
  const auto many = [&] {
    for (int i = 0; i < 200; ++i) pool.run([&](int) { ++calls; });
  };
  std::thread other(many);
  many();
  other.join();
  EXPECT_EQ(calls.load(), 800);
}

/// As OpenMP may: with fewer threads than were asked for.
void run_on_two(void (*task)(void*), void* context, unsigned count, unsigned /*flags*/) {
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < std::min(count, 2U); ++i) threads.emplace_back(task, context);
  task(context);
  for (std::thread& thread : threads) thread.join();
}

TEST(ThreadPool, WorkersRunOnBorrowedThreads) {
  ThreadPool pool(5);
  borrow_threads(run_on_two);
  std::vector<std::atomic<int>> calls(5);
  pool.run([&](int worker) {
    ++calls[static_cast<std::size_t>(worker)];
    pool.run([&](int inner) { calls[static_cast<std::size_t>(inner)] += 10; });
  });
  for (const auto& count : calls) EXPECT_EQ(count.load(), 51);
  EXPECT_THROW(pool.run([&](int worker) {
    if (worker == 3) throw std::runtime_error("no");
  }),
               std::runtime_error);
  borrow_threads(nullptr);
  pool.run([&](int worker) { ++calls[static_cast<std::size_t>(worker)]; });
  for (const auto& count : calls) EXPECT_EQ(count.load(), 52);
}

TEST(ThreadPool, AForkedProcessRunsInline) {
  ThreadPool pool(3);
  pool.run([](int) {});
  const pid_t child = fork();
  if (child == 0) {
    int calls = 0;
    pool.run([&](int) { ++calls; });
    _exit(calls == 3 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(DefaultPool, PoolsThatWereTheDefaultGoOnRunning) {
  const int size = default_pool().size();
  ThreadPool& before = default_pool();
  set_default_threads(3);
  EXPECT_EQ(default_pool().size(), 3);
  ThreadPool& three = default_pool();
  set_default_threads(size);
  EXPECT_EQ(&default_pool(), &before);  // The same size is the same pool.
  std::atomic<int> calls{0};
  three.run([&](int) { ++calls; });  // A model may hold it.
  EXPECT_EQ(calls.load(), 3);
  EXPECT_THROW(set_default_threads(-1), Error);
  EXPECT_EQ(&default_pool(), &before);
}

TEST(ThreadPool, RefusesNonsense) {
  EXPECT_THROW(ThreadPool(-1), Error);
  ThreadPool pool(1);
  EXPECT_THROW(pool.parallel_dynamic(3, 0, [](std::int64_t, std::int64_t) {}), Error);
}

}  // namespace
}  // namespace rarefy
