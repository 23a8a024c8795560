#include "ops/spmm/cuda/gather/gather_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "cuda/device_text.h"
#include "ops/spmm/cuda/epilogue.h"
#include "ops/spmm/cuda/gather/gather_order.h"
#include "ops/spmm/cuda/row_groups.h"

namespace rarefy::gpu {
namespace {

constexpr int kSplits[] = {1, 2, 4, 8};
constexpr int kTokenTiles[] = {1, 2, 4};
constexpr int kDepths[] = {4, 8};
constexpr int kDeltas[] = {7, 11};
constexpr int kMostRounds = 16;             // Of clusters, one after the other.
constexpr int kMostColumns = 1 << 16;       // Half a word.
constexpr int kMostDeltaColumns = 1 << 15;  // What a chunk's first columns have room for.
constexpr int kMostDeltaTiles = 1;          // More tokens are not bound by bytes.

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// Many tokens need much shared memory: then several passes of fewer may be faster.
bool worth(int token_tiles, std::int64_t n) {
  const int needed = n <= 8 ? 1 : n <= 16 ? 2 : 4;
  return token_tiles == needed || (token_tiles == 2 && needed == 4);
}

/// From so many tokens on, blocks take tokens rather than rows: a block that has brought the
/// activations of its tokens to shared memory multiplies as many rows with them as it has room for.
constexpr std::int64_t kFewestForTall = 65;
/// Up to so many blocks may own rows.
constexpr std::int64_t kMostForRows = 128;

/// Zeros a nonzero that steps of 7 bits take where no nonzero is within reach (counted on uniform
/// patterns): of a skewed one, more in its many sparse rows.
double zeros_between(const PatternStats& pattern) {
  const auto zeros = [](double density) {
    return 0.01 + 2.5 * std::exp(-gather_reach(7).forth * density);
  };
  if (pattern.row_nnz.empty() || pattern.nnz == 0) return zeros(pattern.density());
  double sum = 0;
  for (const std::int32_t nnz : pattern.row_nnz)
    sum += nnz * zeros(nnz / static_cast<double>(pattern.cols));
  return sum / static_cast<double>(pattern.nnz);
}

/// Deals groups of rows to `tiles` clusters; false where a block has no room for its share.
bool deal(GatherConfig& config, std::int64_t tiles, std::int64_t groups,
          const cuda::DeviceFacts& device) {
  constexpr int kMostPlaces = 1 << 16;
  config.tiles = static_cast<int>(std::min(groups, tiles));
  config.groups = static_cast<int>(divide_up(groups, config.tiles));
  const auto has_room = [&](int strips) {
    return strips * GatherConfig::kStripRows <= kMostPlaces &&
           config.shared_bytes(strips) <= static_cast<std::int64_t>(device.shared_per_block);
  };
  // Tall blocks fill shared memory with rows. They leave one strip for those that are cut: it makes
  // sixteenths of a row that is longer than all others together.
  config.most_strips = config.groups + (config.tall ? 1 : 0);
  if (!has_room(config.most_strips)) return false;
  while (has_room(config.most_strips + 1)) ++config.most_strips;
  return true;
}

/// Gives a configuration as many clusters as run at once, or several rounds of them if their rows
/// do not fit otherwise.
bool fit(GatherConfig& config, std::int64_t groups, const cuda::DeviceFacts& device) {
  const std::int64_t resident = resident_clusters(device.multiprocessors, config.split);
  for (int rounds = 1; rounds <= kMostRounds; ++rounds)
    if (deal(config, resident * rounds, groups, device)) return true;
  return false;
}

/// Gives a configuration as few clusters as its rows fit in.
bool fit_tall(GatherConfig& config, std::int64_t groups, const cuda::DeviceFacts& device) {
  config.tall = true;
  std::int64_t too_few = 0, enough = groups;
  if (!deal(config, enough, groups, device)) return false;
  while (enough - too_few > 1) {
    const std::int64_t middle = (too_few + enough) / 2;
    (deal(config, middle, groups, device) ? enough : too_few) = middle;
  }
  return deal(config, enough, groups, device);
}

}  // namespace

std::int64_t GatherConfig::shared_bytes(int strips) const {
  const std::int64_t places = std::int64_t{strips} * kStripRows;
  const std::int64_t extras = std::int64_t{strips - groups} * kStripRows;
  const std::int64_t planes = std::max(std::int64_t{columns} * 16, (places + 4) * 32) * token_tiles;
  const std::int64_t ring = std::int64_t{warps} * depth * chunk_bytes();
  const std::int64_t slots = std::int64_t{strips + warps} * token_tiles * 512;
  const std::int64_t tables =
      std::int64_t{strips} * 8 + std::int64_t{groups} * 4 + (places + extras) * 2;
  return planes + ring + slots + tables;
}

std::string GatherConfig::name() const {
  return fmt::format("gather.n{}.w{}.d{}.c{}{}{}", token_tiles * 8, warps, depth, split,
                     tall ? ".tall" : "", delta > 0 ? fmt::format(".delta{}", delta) : "");
}

cuda::Source GatherConfig::source(const Problem& problem) const {
  cuda::Source source{.name = name(),
                      .text = std::string(cuda::device_text("ops/spmm/cuda/gather/gather.cu")),
                      .defines = epilogue_defines(problem)};
  source.oldest_arch = 90;
  source.defines.push_back(fmt::format("TOKEN_TILES={}", token_tiles));
  source.defines.push_back(fmt::format("WARPS={}", warps));
  source.defines.push_back(fmt::format("DEPTH={}", depth));
  source.defines.push_back(fmt::format("SPLIT={}", split));
  source.defines.push_back(fmt::format("DELTA={}", delta));
  source.defines.push_back(fmt::format("BACK={}", gather_reach(delta).back));
  source.defines.push_back(fmt::format("BF16={}", problem.weight == DType::kBF16 ? 1 : 0));
  source.defines.push_back(fmt::format("C_TYPE={}", cuda::device_type(problem.output)));
  return source;
}

cuda::Source GatherConfig::expand_source() const {
  return {.name = delta > 0 ? fmt::format("gather.expand.delta{}", delta) : "gather.expand",
          .text = std::string(cuda::device_text("ops/spmm/cuda/gather/expand.cu")),
          .defines = {fmt::format("DELTA={}", delta),
                      fmt::format("BACK={}", gather_reach(delta).back)}};
}

std::vector<GatherConfig> gather_configs(const Problem& problem, const cuda::DeviceFacts& device) {
  std::vector<GatherConfig> found;
  const std::int64_t groups = divide_up(problem.m, GatherConfig::kStripRows);
  for (const int split : kSplits) {
    const std::int64_t columns = divide_up(divide_up(problem.k, split), 8) * 8;
    if (columns > kMostColumns || (split > 1 && columns < 256)) continue;
    for (const int token_tiles : kTokenTiles) {
      for (const int depth : kDepths) {
        GatherConfig config{.token_tiles = token_tiles,
                            .depth = depth,
                            .split = split,
                            .columns = static_cast<int>(columns)};
        GatherConfig tall = config;
        if (problem.n >= kFewestForTall && fit_tall(tall, groups, device)) found.push_back(tall);
        if (problem.n <= kMostForRows && worth(token_tiles, problem.n) &&
            fit(config, groups, device))
          found.push_back(config);
      }
      if (problem.n > kMostForRows || !worth(token_tiles, problem.n) ||
          token_tiles > kMostDeltaTiles || columns > kMostDeltaColumns)
        continue;
      for (const int delta : kDeltas) {
        GatherConfig config{.token_tiles = token_tiles,
                            .split = split,
                            .columns = static_cast<int>(columns),
                            .delta = delta};
        if (fit(config, groups, device)) found.push_back(config);
      }
    }
  }
  return found;
}

StripStats strip_stats(const PatternStats& pattern) {
  StripStats stats{.density = pattern.density(), .zeros = zeros_between(pattern)};
  const double mean = static_cast<double>(pattern.nnz) / std::max<double>(1, pattern.rows);
  stats.whole = stats.cut = mean;
  std::vector<std::int32_t> sorted = pattern.row_nnz;
  if (sorted.empty()) return stats;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  double sum = 0;  // Of the strips' longest rows.
  for (std::size_t i = 0; i < sorted.size(); i += GatherConfig::kStripRows) sum += sorted[i];
  stats.whole = sum / static_cast<double>(divide_up(pattern.rows, GatherConfig::kStripRows));
  // A twentieth and eight steps more than the mean row.
  constexpr double kCut = 1.05, kCutSteps = 8;
  stats.cut = std::min(stats.whole, kCut * mean + kCutSteps);
  return stats;
}

double estimate_us(const GatherConfig& config, const Problem& problem, const StripStats& of_pattern,
                   const cuda::DeviceFacts& device) {
  const double passes = std::ceil(static_cast<double>(problem.n) / (8.0 * config.token_tiles));
  // Steps of a strip in a block's columns: its longest run there, and half a chunk. Tall blocks,
  // which have as many rows as they have room for, have none for cut ones.
  const double part = (config.tall ? of_pattern.whole : of_pattern.cut) / config.split;
  // Short steps: zeros where nothing is within reach, and conflicts of banks where too little is
  // to choose from (counted).
  const bool short_steps = config.delta == 7;
  const double zeros = short_steps ? of_pattern.zeros : 0;
  const double conflicts =
      short_steps        ? std::clamp(0.04 - 0.035 * std::log2(5 * of_pattern.density), 0., 0.2)
      : config.delta > 0 ? 0.03
                         : 0.01;
  const double steps = (part + (config.split > 1 ? 0.7 * std::sqrt(part) : 0)) * (1 + zeros) +
                       0.5 * config.chunk_steps();
  const double sms = std::max(1, device.multiprocessors);
  // Of a multiprocessor. Blocks that take rows do not divide: those of one pass fill the GPU.
  const double rounds = config.tall ? std::ceil(passes * config.blocks() / sms)
                                    : passes * std::ceil(config.blocks() / sms);
  const double strips = rounds * config.groups;
  const double step_bytes = static_cast<double>(config.chunk_bytes()) / config.chunk_steps();
  const double clocks_a_us = 1e3 * device.clock_ghz;
  // From memory once, and for every pass from L2.
  constexpr double kL2BytesAClock = 34;
  const double memory_us = std::max((config.tall ? 1 : passes) * config.blocks() * config.groups *
                                        steps * step_bytes / (0.87e3 * device.memory_gb_per_s),
                                    strips * steps * step_bytes / kL2BytesAClock / clocks_a_us);
  // A step: 16 columns of 16 bytes for each tile of 8 tokens, and its bytes in and out of the L1.
  constexpr double kSharedReached = 0.9, kIssueReached = 0.65;
  const double wavefronts = 2 * (1 + 8 * conflicts) * config.token_tiles + step_bytes / 64;
  const double instructions = (config.delta > 0 ? 6.5 : 5.5) + 1.5 * config.token_tiles;
  const double work_us = strips * steps *
                         std::max(wavefronts / kSharedReached, instructions / 4 / kIssueReached) /
                         clocks_a_us;
  const double staged_kb = static_cast<double>(config.columns) * config.token_tiles / 64;
  const double block_us = 1.2 * staged_kb / 64 + 0.03 * config.groups * config.token_tiles;
  const double launch_us = 1.6 + (config.split > 1 ? 1.5 : 0);
  const double not_hidden = config.tall ? 0.5 : 0.12;
  return (config.tall ? 1 : passes) * launch_us + rounds * block_us + std::max(memory_us, work_us) +
         not_hidden * std::min(memory_us, work_us);
}

}  // namespace rarefy::gpu
