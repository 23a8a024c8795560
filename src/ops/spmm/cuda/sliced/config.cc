#include "ops/spmm/cuda/sliced/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cuda/device_text.h"
#include "ops/spmm/cuda/epilogue.h"

namespace rarefy::gpu {
namespace {

int pack_of(const Problem& problem) {
  return 16 / static_cast<int>(size_of(problem.activations));
}

}  // namespace

int SlicedConfig::tile(const Problem& problem) const {
  return planes * pack_of(problem);
}

std::string SlicedConfig::name(const Problem& problem) const {
  return fmt::format("sliced.n{}.k{}x{}.g{}.t{}x{}", tile(problem), part, parts, lanes, threads,
                     blocks);
}

cuda::Source SlicedConfig::source(const Problem& problem) const {
  cuda::Source source{.name = name(problem) + epilogue_name(problem),
                      .text = std::string(cuda::device_text("ops/spmm/cuda/sliced/sliced.cu")),
                      .defines = epilogue_defines(problem),
                      .local_bytes = 16};
  const auto define = [&](const char* name, auto value) {
    source.defines.push_back(fmt::format("{}={}", name, value));
  };
  define("VALUE", cuda::device_type(problem.weight));
  define("B_TYPE", cuda::device_type(problem.activations));
  define("C_TYPE", cuda::device_type(problem.output));
  define("PLANES", planes);
  define("PART", part);
  define("PARTS", parts);
  define("LANES", lanes);
  define("THREADS", threads);
  define("BLOCKS", blocks);
  return source;
}

cuda::Source SlicedConfig::expand_source(const Problem& problem) const {
  return {.name = fmt::format("sliced.expand.k{}x{}.g{}.w{}", part, parts, lanes, threads / 32),
          .text = std::string(cuda::device_text("ops/spmm/cuda/sliced/expand.cu")),
          .defines = {fmt::format("VALUE={}", cuda::device_type(problem.weight)),
                      fmt::format("PART={}", part), fmt::format("PARTS={}", parts),
                      fmt::format("LANES={}", lanes), fmt::format("WARPS={}", threads / 32)}};
}

std::size_t SlicedConfig::shared_bytes(const Problem& problem, std::int64_t slots) const {
  constexpr std::int64_t kZeroRows = 8;
  const std::int64_t staged = (part + kZeroRows) * planes * 16;
  return static_cast<std::size_t>(staged + slots * tile(problem) * 4);
}

std::int64_t SlicedConfig::ranges(const Problem& problem, const cuda::DeviceFacts& device) const {
  const std::int64_t tiles = (problem.n + tile(problem) - 1) / tile(problem);
  const std::int64_t resident = std::int64_t{device.multiprocessors} * blocks;
  return std::clamp<std::int64_t>(resident / tiles, 1, std::max<std::int64_t>(problem.m, 1));
}

std::int64_t longest_item(const SlicedConfig& config, double mean) {
  // Five deviations of a uniform pattern's rows leave those whole. Longer rows are cut into pieces
  // of the others' length: rows of a slice take as long as its longest, and a piece costs little.
  constexpr double kDeviations = 5;
  constexpr std::int64_t kLeast = 16;
  return std::max<std::int64_t>(static_cast<std::int64_t>(mean + kDeviations * std::sqrt(mean)) + 1,
                                kLeast * config.lanes);
}

double estimate_us(const SlicedConfig& config, const Problem& problem, double mean,
                   const cuda::DeviceFacts& device) {
  constexpr double kLaunchUs = 1.2;
  constexpr double kMemoryEfficiency = 0.88;
  constexpr double kL2BytesAClock = 28;   // Of a multiprocessor, all reading.
  constexpr double kLatencyClocks = 900;  // A load of B, and starting again behind it.
  constexpr double kBatchClocks = 180;    // Of one batch of a lonely warp.
  constexpr double kOfChain = 0.35;       // What of it is not hidden behind other warps.
  const double sms = device.multiprocessors;
  const double clocks_a_us = device.clock_ghz * 1e3;
  const double tile = config.tile(problem);
  const double tiles = std::ceil(static_cast<double>(problem.n) / tile);
  const double ranges = static_cast<double>(config.ranges(problem, device));
  // Blocks of a multiprocessor one after the other or side by side: its share of the work.
  const double blocks_a_sm = std::ceil(ranges * tiles / sms);
  const double rounds = std::ceil(ranges * tiles / (sms * config.blocks));

  // A lane's steps for an item of a part: its share, what whole batches and the longest of a slice
  // add; and the cycles of a step's gathers, of which more lanes a row can avoid fewer conflicts.
  // As packing uniform patterns gives them.
  const double items = static_cast<double>(problem.m) / ranges;  // Of a block.
  const double share = std::max(mean, 0.5) / config.parts / config.lanes;
  const double steps = share + 1.5 + 0.15 * std::sqrt(share);
  const double conflicts = std::min(1.6, 1.15 + 0.03 * config.lanes);
  const double warps = config.threads / 32.0;
  const double slices = std::ceil(items * config.lanes / 32);
  const double slices_a_warp = std::ceil(slices / warps);
  const double gathers = slices * config.parts * steps * config.planes;  // Warps' 16-byte loads.

  const double value = static_cast<double>(size_of(problem.weight));
  const double pack = pack_of(problem);
  const double nonzero_slots =
      2.5 + config.planes * (1 + pack * (pack == 8 ? 2 : 1)) + (value == 2 ? 1 : 0) + 2.5;
  const double shuffles = std::log2(config.lanes) * tile * 2;
  const double slots = slices * config.parts * (steps * nonzero_slots + 40 + shuffles + tile);
  const double issue = slots / 4;
  const double shared = gathers * 4 * conflicts;
  const double l2 = slices * config.parts * steps * 32 * (2 + value) / kL2BytesAClock;
  const double chain = rounds * slices_a_warp * config.parts * (steps / 4 * kBatchClocks + 60);
  const double clocks =
      blocks_a_sm * (std::max({issue, shared, l2}) + 0.25 * (issue + shared + l2));
  const double stage =
      rounds * config.parts *
      (kLatencyClocks + static_cast<double>(config.part) * 16 * config.planes * config.blocks / 24);
  const double stores = items * tile * blocks_a_sm / 32;

  const double bytes =
      static_cast<double>(problem.m) * steps * config.lanes * config.parts * (2 + value) +
      static_cast<double>(problem.m * problem.n) * static_cast<double>(size_of(problem.output));
  const double memory_us = bytes / (device.memory_gb_per_s * kMemoryEfficiency * 1e3);
  return kLaunchUs + (stage + stores + kOfChain * chain) / clocks_a_us +
         std::max(clocks / clocks_a_us, memory_us);
}

}  // namespace rarefy::gpu
