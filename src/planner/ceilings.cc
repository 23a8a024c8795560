#include "planner/ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "planner/read_streams.h"
#include "rarefy/cpu.h"

namespace rarefy::planning {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Keeps results of read loops alive.
std::atomic<std::uint64_t> sink{0};

/// Shares of the threads are multiples of this (a line a stream).
constexpr std::size_t kGranule = 64 * kReadStreams;

/// All threads read their share of `bytes` `times` times; seconds.
double read_once(const std::byte* data, std::size_t bytes, int times, ThreadPool& pool) {
  ReadStreams* read = widest_read_streams();
  // An odd number of lines a stream: streams that are a power of two apart would all want the same
  // set of each cache.
  const std::size_t granules = bytes / static_cast<std::size_t>(pool.size()) / kGranule;
  const std::size_t share = (granules % 2 == 1 ? granules : granules - 1) * kGranule;
  const auto begin = Clock::now();
  pool.run([&](int worker) {
    std::uint64_t sum = 0;
    for (int i = 0; i < times; ++i)
      sum ^= read(data + static_cast<std::size_t>(worker) * share, share);
    sink.fetch_xor(sum, std::memory_order_relaxed);
  });
  return seconds_since(begin);
}

/// The best of `passes`: a ceiling is what the machine does when nobody else disturbs it.
double read_gb_per_s(const std::byte* data, std::size_t bytes, int times, int passes,
                     ThreadPool& pool) {
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    const double seconds = read_once(data, bytes, times, pool);
    best = std::max(best, static_cast<double>(bytes) * times / seconds / 1e9);
  }
  return best;
}

/// The slowest thread's clock in the best of three passes.
double measure_ghz(ThreadPool& pool) {
  constexpr std::int64_t kIterations = 1'000'000;
  SpinVectors* spin = widest_spin_vectors();
  double best = 0;
  for (int pass = 0; pass < 3; ++pass) {
    std::vector<double> seconds(static_cast<std::size_t>(pool.size()));
    pool.run([&](int worker) {
      const auto begin = Clock::now();
      sink.fetch_xor(spin(kIterations, static_cast<std::uint64_t>(worker)),
                     std::memory_order_relaxed);
      seconds[static_cast<std::size_t>(worker)] = seconds_since(begin);
    });
    const double slowest = *std::max_element(seconds.begin(), seconds.end());
    best = std::max(best, static_cast<double>(kIterations) * kSpinChain / slowest / 1e9);
  }
  return best;
}

/// MemAvailable of the kernel; a guess where it does not say.
std::size_t available_memory() {
  std::ifstream info("/proc/meminfo");
  std::string word;
  while (info >> word) {
    std::size_t kib = 0;
    if (word == "MemAvailable:" && info >> kib) return kib << 10;
  }
  return std::size_t{2} << 30;
}

}  // namespace

ReadStreams* widest_read_streams() {
  if (cpu_info().avx512) return read_streams_avx512;
  if (cpu_info().avx2) return read_streams_avx2;
  return read_streams_portable;
}

SpinVectors* widest_spin_vectors() {
  if (cpu_info().avx512) return spin_vectors_avx512;
  if (cpu_info().avx2) return spin_vectors_avx2;
  return spin_vectors_portable;
}

std::size_t eviction_bytes() {
  constexpr std::size_t kLeast = std::size_t{256} << 20;
  constexpr std::size_t kMost = std::size_t{1} << 30;
  const auto last_level = static_cast<std::size_t>(std::max(cpu_info().l3_bytes, 0L));
  const std::size_t wanted = std::clamp(last_level / 4 * 5, kLeast, kMost);
  return std::min(wanted, available_memory() / 4) / (std::size_t{1} << 20) << 20;
}

MachineCeilings measure_ceilings(ThreadPool& pool) {
  MachineCeilings ceilings;
  ceilings.ghz = measure_ghz(pool);

  const auto threads = static_cast<std::size_t>(pool.size());
  const std::size_t memory_bytes = std::max<std::size_t>(eviction_bytes(), threads * kGranule);
  Buffer memory(memory_bytes);
  const std::size_t share = memory_bytes / threads;
  pool.run([&](int worker) {  // Touched by whoever reads it: each page on its reader's node.
    std::memset(memory.data() + static_cast<std::size_t>(worker) * share, worker + 1, share);
  });
  ceilings.dram_gb_per_s = read_gb_per_s(memory.data(), memory_bytes, 1, 6, pool);

  // Half of the private cache, so that the other thread of a core and the stack find room too.
  const std::size_t l2 = cpu_info().l2_bytes > 0 ? static_cast<std::size_t>(cpu_info().l2_bytes)
                                                 : std::size_t{256} << 10;
  const std::size_t cache_bytes = std::min(threads * (l2 / 2), memory_bytes);
  ceilings.cache_gb_per_s = read_gb_per_s(memory.data(), cache_bytes, 40, 6, pool);
  ceilings.cache_gb_per_s = std::max(ceilings.cache_gb_per_s, ceilings.dram_gb_per_s);
  return ceilings;
}

bool is_due(const KnownCeilings& known, std::int64_t now) {
  constexpr int kTimes = 5;
  constexpr std::int64_t kApart = 600;
  return known.times > 0 && known.times < kTimes && now - known.measured_at >= kApart;
}

KnownCeilings best_of_both(const KnownCeilings& known, const MachineCeilings& now,
                           std::int64_t when) {
  return {.best = {.dram_gb_per_s = std::max(known.best.dram_gb_per_s, now.dram_gb_per_s),
                   .cache_gb_per_s = std::max(known.best.cache_gb_per_s, now.cache_gb_per_s),
                   .ghz = std::max(known.best.ghz, now.ghz)},
          .measured_at = when,
          .times = known.times + 1};
}

MachineCeilings assumed_ceilings(int threads) {
  // A server core's share of memory bandwidth once several work, its L2, its clock under AVX-512.
  constexpr double kDramPerThread = 10.0;
  constexpr double kCachePerThread = 60.0;
  constexpr double kGhz = 2.5;
  return {kDramPerThread * threads, kCachePerThread * threads, kGhz};
}

Json machine_key(int threads) {
  return {{"cpu", cpu_info().brand}, {"isa", to_string(active_isa())}, {"threads", threads}};
}

}  // namespace rarefy::planning
