// What a configuration costs: the highest of four floors, behind what nobody can hide.
//
// Counted per multiprocessor: bytes of the weight at the bandwidth of memory; instructions at four
// warps a clock; cycles of shared memory for the gathers (measured for random columns: 3.4 a warp
// for up to 4 bytes a lane, about 2 per quarter of a warp for 16); and the chain of loads that a
// group waits for, round after round.
#include <algorithm>
#include <cmath>

#include "ops/spmm/cuda/composed/config.h"

namespace rarefy::gpu {
namespace {

constexpr double kLaunchUs = 1.0;           // An empty kernel in a graph.
constexpr double kMemoryEfficiency = 0.88;  // A copy against the data sheet.
constexpr double kMemoryClocks = 800;       // Latency of a load that misses L2.
constexpr double kCacheClocks = 260;        // … that hits L2.
constexpr double kStepInstructions = 8;     // Addresses, bounds, branch.
constexpr double kItemInstructions = 30;    // Loading begin and target, storing.
constexpr double kPiecesUs = 3.0;           // Of pieces of rows: fences, counters, the sums.
constexpr double kL1LinesPerGather = 28;    // Lines that a warp's random gather touches.

/// Cycles of shared memory for one gather of a warp.
double gather_cycles(double bytes_per_lane) {
  if (bytes_per_lane <= 4) return 3.4;
  return bytes_per_lane <= 8 ? 6.0 : 8.5 * bytes_per_lane / 16;
}

/// Of a thread, to add up `sums` sums over `threads` threads (reduce.cuh).
double shuffles(double sums, double threads) {
  const double levels = std::log2(threads), halvings = std::min(levels, std::log2(sums));
  return sums - sums / std::exp2(halvings) + levels - halvings;
}

/// Bytes of a column.
double index_bytes(const ComposedConfig& config) {
  return config.delta() ? 1.0 : config.index_bits / 8.0;
}

/// Bytes of a nonzero: its value and its column.
double nonzero_bytes(const ComposedConfig& config, const Problem& problem) {
  return static_cast<double>(size_of(problem.weight)) + index_bytes(config);
}

/// Where nonzeros are shared evenly: bytes, or issue slots and shared memory, of a block's share,
/// behind its start and ahead of its end.
double estimate_even_us(const ComposedConfig& config, const Problem& problem, const RowStats& rows,
                        const cuda::DeviceFacts& device) {
  const double hz = device.clock_ghz * 1e3;
  const double tiles = std::ceil(static_cast<double>(problem.n) / config.n_tile);
  const EvenShare share = even_share(config, problem, rows, device);
  const double blocks = even_blocks(config, device);
  const double passes = tiles * config.blocks;  // Shares that a multiprocessor works on.
  const double vectors = passes * static_cast<double>(share.vectors);
  const auto share_rows = static_cast<double>(share.rows);

  const double vector_bytes = config.vec * nonzero_bytes(config, problem);
  const double bytes =
      blocks * (static_cast<double>(share.vectors) * vector_bytes + 12 * share_rows) +
      static_cast<double>(problem.m * problem.n) * static_cast<double>(size_of(problem.output));
  const double memory_us = bytes / (device.memory_gb_per_s * kMemoryEfficiency * 1e3);

  const auto b_bytes = static_cast<double>(size_of(config.staged_type(problem)));
  const double convert = b_bytes < 4 ? config.n_tile : 0;
  const double nonzero_slots = (config.delta() ? 5 : 2) + 1 + convert + config.n_tile;
  const double vector_slots = kStepInstructions + 2 + config.vec * nonzero_slots +
                              3 * shuffles(config.n_tile, config.group);
  const double issue_us = vectors * vector_slots / 128 / hz;
  const double gather_us = vectors * config.vec * gather_cycles(config.n_tile * b_bytes) / 32 / hz;

  // A row's segments, eight at a time, the longest one last.
  const double row_steps = static_cast<double>(rows.longest) / (config.vec * config.group * 8);
  const double end = 300 + 40 * (row_steps + share_rows * 8 / config.threads);
  const double stage_rounds = std::ceil(static_cast<double>(problem.k) / config.threads / 4);
  const double stage = kMemoryClocks * std::max(1.0, stage_rounds / 2) +
                       static_cast<double>(config.shared_bytes(problem)) * config.blocks / 64;
  return kLaunchUs + (stage + end) / hz + std::max({memory_us, issue_us, gather_us}) +
         0.15 * (memory_us + issue_us + gather_us);
}

}  // namespace

double estimate_us(const ComposedConfig& config, const Problem& problem, const RowStats& rows,
                   const cuda::DeviceFacts& device) {
  if (config.even) return estimate_even_us(config, problem, rows, device);
  const double sms = device.multiprocessors;
  const double hz = device.clock_ghz * 1e3;  // Clocks a microsecond.
  const double per_lane = static_cast<double>(config.n_tile) / config.n_lanes;
  const double tiles = std::ceil(static_cast<double>(problem.n) / config.n_tile);
  const double b_bytes = config.staged ? static_cast<double>(size_of(config.staged_type(problem)))
                                       : static_cast<double>(size_of(problem.activations));

  // An item's vectors, padded; the steps that its group takes.
  const double items = std::max(1.0, static_cast<double>(problem.m));
  const double stored = stored_nonzeros(config, rows.mean, rows, problem.k);
  const double vectors = stored / config.vec + 0.5;
  const double steps = std::max(1.0, std::ceil(vectors / config.group + 0.25));
  const double groups = sms * config.threads * config.blocks / (config.group * config.n_lanes);
  const double rounds = std::ceil(items * tiles / groups);

  const double bytes =
      items * (vectors * config.vec * nonzero_bytes(config, problem) + 8) +
      static_cast<double>(problem.k * problem.n) *
          static_cast<double>(size_of(problem.activations)) +
      static_cast<double>(problem.m * problem.n) * static_cast<double>(size_of(problem.output));
  const double memory_us = bytes / (device.memory_gb_per_s * kMemoryEfficiency * 1e3);

  const double warps_per_item = config.group * config.n_lanes / 32.0;
  const double value_bytes = static_cast<double>(size_of(problem.weight)) * config.vec;
  const double loads =
      std::ceil(value_bytes / 16) + std::ceil(index_bytes(config) * config.vec / 16);
  const double gather_loads = std::ceil(per_lane * b_bytes / 16);
  const double convert = b_bytes < 4 ? per_lane : 0;
  const double nonzero_slots = (config.delta() ? 5 : 2) + gather_loads + convert + per_lane;
  const double step_slots = kStepInstructions + loads + config.vec * nonzero_slots;
  const double item_shuffles = shuffles(per_lane, config.group);
  const double item_slots = kItemInstructions + 3 * item_shuffles + 2 * per_lane;
  const double slots = items * tiles * warps_per_item * (steps * step_slots + item_slots);
  const double issue_us = slots / (4 * sms) / hz;

  const double gathers = items * tiles * warps_per_item * steps * config.vec;
  const double gather_us =
      gathers *
      (config.staged ? gather_cycles(per_lane * b_bytes)
                     : std::min(kL1LinesPerGather, 32.0 / config.n_lanes + per_lane)) /
      sms / hz;

  // Where rows are longer than items get, groups wait for items of full length, and for sums that
  // pass through memory where a warp is not enough for a row.
  const std::int64_t longest = longest_item(config, rows);
  const double longest_steps =
      rows.longest > longest ? static_cast<double>(longest) / (config.vec * config.group) : steps;
  const double pieces_us = rows.longest > longest * neighbours(config) ? kPiecesUs : 0;

  const double chain = kCacheClocks + std::ceil(longest_steps / config.unroll) * kMemoryClocks +
                       (config.staged ? 0 : kCacheClocks) + 40 * item_shuffles / 2 +
                       (config.group * config.n_lanes > 32 ? 150 : 0) + 100;
  const double chain_us = rounds * chain / hz;

  // Staging: the blocks of a multiprocessor read B at once, and nothing runs meanwhile.
  const double staged_bytes = config.staged ? static_cast<double>(config.shared_bytes(problem)) : 0;
  const double stage_rounds =
      config.staged ? std::ceil(static_cast<double>(problem.k) / config.threads / 4) : 0;
  const double stage_us =
      config.staged ? (kMemoryClocks * stage_rounds + staged_bytes * config.blocks / 64) / hz : 0;

  return kLaunchUs + stage_us + pieces_us + std::max({memory_us, issue_us, gather_us, chain_us}) +
         0.15 * (memory_us + issue_us + gather_us);
}

}  // namespace rarefy::gpu
