#include "planner/estimate.h"

#include <algorithm>

#include "rarefy/cpu.h"

namespace rarefy::planning {
namespace {

/// Share of the smaller floor that shows beside the larger: loads and decoding overlap within a
/// core's window, but not at the ends of rows and panels.
constexpr double kExposed = 0.1;
/// Waking the pool and joining it again.
constexpr double kStartUs = 2.0;

}  // namespace

double estimate_us(const Roofline& floors) {
  return std::max(floors.memory_us, floors.compute_us) +
         kExposed * std::min(floors.memory_us, floors.compute_us) + kStartUs;
}

Roofline floors_of(const SpmmCost& cost, const MachineCeilings& ceilings, int threads,
                   bool from_cache) {
  const double gb_per_s = from_cache ? ceilings.cache_gb_per_s : ceilings.dram_gb_per_s;
  return {.bytes = cost.bytes,
          .cycles = cost.cycles,
          .memory_us = cost.bytes / (gb_per_s * 1e3),
          .compute_us = cost.cycles / (ceilings.ghz * 1e3 * std::max(threads, 1))};
}

bool stays_in_cache(std::size_t working_set) {
  // The last-level cache of a server is shared with neighbours that a virtual machine cannot see:
  // only the private caches are trusted to keep a weight.
  const CpuInfo& cpu = cpu_info();
  const auto private_bytes = static_cast<std::size_t>(std::max(cpu.l2_bytes, 0L)) *
                             static_cast<std::size_t>(std::max(cpu.cores, 1));
  return working_set <= private_bytes;
}

}  // namespace rarefy::planning

namespace rarefy {

Roofline roofline(const SpmmKernel& kernel, const FormatSpec& spec, const PatternStats& pattern,
                  const SpmmProblem& problem, const MachineCeilings& ceilings) {
  return planning::floors_of(kernel.cost(spec, pattern, problem), ceilings, problem.threads, false);
}

}  // namespace rarefy
