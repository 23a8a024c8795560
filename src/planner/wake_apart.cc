#include "planner/wake_apart.h"

#include <chrono>

#include "rarefy/cpu.h"

namespace rarefy::planning {
namespace {

using Clock = std::chrono::steady_clock;

/// Long beside the microsecond that awake threads need to begin, short beside the calls to time.
constexpr auto kSpin = std::chrono::microseconds(15);
/// Two threads of one core spin one after the other.
constexpr auto kPrompt = 2 * kSpin;
/// Mostly one or two jobs do; where the system had to move a thread, up to 1.5 ms in 99 of 100.
constexpr auto kLongest = std::chrono::milliseconds(10);

}  // namespace

void wake_apart(ThreadPool& pool) {
  const auto begin = Clock::now();
  // More threads than cores cannot be apart.
  const bool can_be = pool.size() > 1 && pool.size() <= cpu_info().cores;
  for (auto now = begin; now - begin < kLongest;) {
    const auto start = now;
    pool.run([](int) {
      const auto from = Clock::now();
      while (Clock::now() - from < kSpin) {
      }
    });
    now = Clock::now();
    if (!can_be || now - start < kPrompt) return;
  }
}

}  // namespace rarefy::planning
