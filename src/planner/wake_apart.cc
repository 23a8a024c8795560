#include "planner/wake_apart.h"

#include <atomic>
#include <chrono>

#include "rarefy/cpu.h"

namespace rarefy::planning {
namespace {

using Clock = std::chrono::steady_clock;

/// Threads that are awake and apart meet within a few microseconds; those of one core when the
/// first has used up its slice, milliseconds later.
constexpr auto kPrompt = std::chrono::microseconds(30);
/// For so long a thread waits in the open: the system moves one that it sees ready to run beside
/// another, not one that sleeps.
constexpr auto kMeeting = std::chrono::milliseconds(4);
constexpr auto kLongest = std::chrono::milliseconds(30);

}  // namespace

bool wake_apart(ThreadPool& pool) {
  const int threads = pool.size();
  // More threads than cores cannot be apart.
  if (threads == 1 || threads > cpu_info().cores) {
    pool.run([](int) {});
    return threads == 1;
  }
  const auto begin = Clock::now();
  for (auto now = begin; now - begin < kLongest;) {
    const auto start = now;
    std::atomic<int> arrived{0};
    pool.run([&](int) {
      arrived.fetch_add(1, std::memory_order_relaxed);
      const auto from = Clock::now();
      while (arrived.load(std::memory_order_relaxed) < threads && Clock::now() - from < kMeeting) {
      }
    });
    now = Clock::now();
    if (now - start < kPrompt) return true;
  }
  return false;
}

}  // namespace rarefy::planning
