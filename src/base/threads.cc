#include "rarefy/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/borrowed_threads.h"
#include "base/check.h"
#include "rarefy/cpu.h"

namespace rarefy {
namespace {

constexpr int kMaxThreads = 1024;
/// Polls before a waiting thread sleeps. A pause takes about 140 cycles on current Intel cores, so
/// this is some 50 µs: longer than the gap between two operators of a layer, shorter than anyone
/// notices.
constexpr int kSpins = 1000;

thread_local bool inside_job = false;

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// Waits until `word` differs from `old`: spins, then sleeps in the kernel.
template <class T>
T await_change(const std::atomic<T>& word, T old) {
  for (int i = 0; i < kSpins; ++i) {
    const T now = word.load(std::memory_order_acquire);
    if (now != old) return now;
    pause_briefly();
  }
  word.wait(old, std::memory_order_acquire);
  return word.load(std::memory_order_acquire);
}

std::atomic<ParallelRunner> borrowed{nullptr};

/// A forked process (a data loader's, say) has no thread but the one that forked.
std::atomic<bool> forked{false};
const int at_fork = pthread_atfork(nullptr, nullptr, [] { forked = true; });

int default_thread_count() {
  const char* value = std::getenv("RAREFY_THREADS");
  if (value == nullptr || *value == '\0') return cpu_info().cores;
  char* end = nullptr;
  const long threads = std::strtol(value, &end, 10);
  require(*end == '\0' && threads >= 1 && threads <= kMaxThreads,
          "RAREFY_THREADS: expected a number from 1 to {}, got '{}'", kMaxThreads, value);
  return static_cast<int>(threads);
}

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex caller;                    ///< One job at a time; a second calling thread waits here.
  std::atomic<std::uint32_t> epoch{0};  ///< Bumped for every job, and to stop.
  std::atomic<std::uint32_t> running{0};  ///< Workers that have not finished the current job.
  bool stopping = false;
  const std::function<void(int)>* job = nullptr;
  std::mutex error_mutex;
  std::exception_ptr error;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  /// Also of a pool that got only some of its threads.
  ~State() {
    if (forked) {  // There is nobody to wait for.
      for (std::thread& thread : workers) thread.detach();
      return;
    }
    stopping = true;
    epoch.fetch_add(1, std::memory_order_release);
    epoch.notify_all();
    for (std::thread& thread : workers) thread.join();
  }

  void call(int worker) {
    inside_job = true;
    try {
      (*job)(worker);
    } catch (...) {
      const std::scoped_lock lock(error_mutex);
      if (!error) error = std::current_exception();
    }
    inside_job = false;
  }

  /// The workers' calls, on however many threads `runner` has for them.
  void run_on(ParallelRunner runner) {
    struct Calls {
      State* state;
      int count;
      std::atomic<int> next{0};
    } calls{this, static_cast<int>(workers.size()) + 1};
    const auto task = [](void* context) {
      auto& c = *static_cast<Calls*>(context);
      for (int worker = c.next++; worker < c.count; worker = c.next++) c.state->call(worker);
    };
    runner(task, &calls, static_cast<unsigned>(calls.count), 0);
  }

  void work(int worker) {
    std::uint32_t seen = 0;
    for (;;) {
      seen = await_change(epoch, seen);
      if (stopping) return;
      call(worker);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  require(threads >= 0 && threads <= kMaxThreads, "ThreadPool: expected 0 to {} threads, got {}",
          kMaxThreads, threads);
  if (threads == 0) threads = default_thread_count();
  for (int worker = 1; worker < threads; ++worker) {
    state_->workers.emplace_back([state = state_.get(), worker] { state->work(worker); });
  }
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::size() const {
  return static_cast<int>(state_->workers.size()) + 1;
}

void ThreadPool::run(const std::function<void(int)>& job) {
  if (inside_job || size() == 1 || forked.load(std::memory_order_relaxed)) {
    for (int worker = 0; worker < size(); ++worker) job(worker);
    return;
  }
  State& s = *state_;
  const std::scoped_lock one_job(s.caller);
  s.job = &job;
  s.error = nullptr;
  if (const ParallelRunner runner = borrowed.load(std::memory_order_relaxed)) {
    s.run_on(runner);
    if (s.error) std::rethrow_exception(s.error);
    return;
  }
  s.running.store(static_cast<std::uint32_t>(s.workers.size()), std::memory_order_relaxed);
  s.epoch.fetch_add(1, std::memory_order_release);
  s.epoch.notify_all();
  s.call(0);
  for (std::uint32_t left = s.running.load(std::memory_order_acquire); left != 0;)
    left = await_change(s.running, left);
  if (s.error) std::rethrow_exception(s.error);
}

void borrow_threads(ParallelRunner runner) {
  borrowed.store(runner);
}

void ThreadPool::parallel_for(std::int64_t count,
                              const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  const std::int64_t parts = std::min<std::int64_t>(size(), count);
  run([&](int worker) {
    if (worker >= parts) return;
    body(count * worker / parts, count * (worker + 1) / parts);
  });
}

void ThreadPool::parallel_dynamic(std::int64_t count, std::int64_t grain,
                                  const std::function<void(std::int64_t, std::int64_t)>& body) {
  require(grain > 0, "parallel_dynamic: expected a positive grain, got {}", grain);
  std::atomic<std::int64_t> next{0};
  run([&](int) {
    for (;;) {
      const std::int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      body(begin, std::min(count, begin + grain));
    }
  });
}

namespace {

std::mutex default_pool_mutex;
ThreadPool* default_pool_instance = nullptr;

/// All pools that were ever the default, one a size: references to them never dangle.
std::vector<std::unique_ptr<ThreadPool>>& default_pools() {
  static std::vector<std::unique_ptr<ThreadPool>> pools;
  return pools;
}

/// With default_pool_mutex held.
ThreadPool& keep_pool(int threads) {
  if (threads == 0) threads = default_thread_count();
  for (const std::unique_ptr<ThreadPool>& pool : default_pools()) {
    if (pool->size() == threads) return *pool;
  }
  return *default_pools().emplace_back(std::make_unique<ThreadPool>(threads));
}

}  // namespace

ThreadPool& default_pool() {
  const std::scoped_lock lock(default_pool_mutex);
  if (default_pool_instance == nullptr) default_pool_instance = &keep_pool(0);
  return *default_pool_instance;
}

void set_default_threads(int threads) {
  const std::scoped_lock lock(default_pool_mutex);
  default_pool_instance = &keep_pool(threads);
}

}  // namespace rarefy
