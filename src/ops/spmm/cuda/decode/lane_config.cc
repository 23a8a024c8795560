#include "ops/spmm/cuda/decode/lane_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cuda/device_text.h"

namespace rarefy::gpu {
namespace {

constexpr int kSplits[] = {1, 2, 4};
constexpr int kWideSplits[] = {1, 2, 3, 4, 6, 8};
constexpr int kRowWarps[] = {1, 2, 4, 8};
constexpr int kWarps[] = {8, 12, 16};
constexpr int kBlocks[] = {2, 4};
constexpr int kMostStrips = 8;
constexpr int kMostRingRows = 255;  // A byte of the header.
/// Accumulators of a lane that leave room for the loads of two strips: with 8 warps a lane has 255
/// registers, with 16 it has 128.
constexpr int kMostSumsWide = 128, kMostSums = 64;

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

int token_tiles_of(std::int64_t n) {
  for (int tiles : {1, 2, 4}) {
    if (n <= std::int64_t{tiles} * 8) return tiles;
  }
  return 8;
}

/// Tokens that a tile of the wide kernel may have, in tiles of 8.
int wide_token_tiles_of(std::int64_t n) {
  for (int tiles : {2, 4, 8}) {
    if (n <= std::int64_t{tiles} * 8) return tiles;
  }
  return 16;
}

/// Clusters that run at once. They do not straddle the groups that multiprocessors come in, 16 or
/// 18 on an H100, of which some lack a few: measured for its 132.
int resident_clusters(int multiprocessors, int split) {
  constexpr int kMeasured = 132;
  constexpr int kOfSplit[] = {0, 132, 66, 39, 30, 22, 17, 15, 15};
  return multiprocessors * kOfSplit[split] / kMeasured;
}

int power_of_two_at_least(int n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}

const char* type_name(DType dtype) {
  return dtype == DType::kF16 ? "f16" : dtype == DType::kBF16 ? "bf16" : "float";
}

/// That of the wide kernel: fitted to measurements on an H100, 14336×4096, 16 to 128 tokens.
double estimate_wide_us(const LaneConfig& config, const Problem& problem, double density,
                        const cuda::DeviceFacts& device) {
  const auto k = static_cast<double>(problem.k);
  const double tokens = config.tokens();
  const double tiles = std::ceil(static_cast<double>(problem.n) / tokens);
  const double places = 16.0 * static_cast<double>(config.groups()) * config.strips * k;
  const double weight = places * 0.125 + static_cast<double>(problem.m) * k * 2 * density * 1.04;
  const double activations = static_cast<double>(config.row_tiles) * k * 2 * tokens;
  const double memory_us = weight * tiles / (0.89e3 * device.memory_gb_per_s);
  const double l2_us = (weight + activations) * tiles / (2.4e3 * device.memory_gb_per_s);
  const double blocks = static_cast<double>(config.row_tiles) * config.split * tiles;
  const double rounds = std::ceil(blocks / std::max(1, device.multiprocessors));
  // Clocks of a fragment, in which all warps decode one; they wait for each other in fours. Then
  // what comes once a stage.
  const double fragments = config.strips * k / (16.0 * config.split * config.k_warps);
  const double of_stage = static_cast<double>(config.strips) * config.blocks;
  const double clocks =
      65 + config.warps() * (11.25 + 0.065 * tokens) + 450 * (1 / of_stage - 0.125);
  const double decode_us = rounds * fragments * clocks / (0.96e3 * device.clock_ghz);
  const double ends_us = 3.0 + 0.045 * tokens + (config.split > 2 ? 2 : config.split > 1 ? 1 : 0);
  const double longest = std::max({memory_us, l2_us, decode_us});
  return ends_us * (1 + 0.5 * (rounds - 1)) + longest + 0.1 * std::min(memory_us, decode_us);
}

}  // namespace

std::int64_t LaneConfig::region_bytes(int ring_rows) const {
  if (wide) {
    constexpr std::int64_t kSumBytes = 80;  // Of a strip and token.
    const std::int64_t working =
        std::int64_t{ring_rows + mirror_rows()} * kRowBytes + kSlots * slot_bytes();
    return divide_up(std::max(working, strips * tokens() * kSumBytes), 128) * 128;
  }
  const std::int64_t activations = std::int64_t{blocks} * token_tiles * 256;
  const std::int64_t working =
      std::int64_t{ring_rows + mirror_rows()} * kRowBytes + kSlots * (slot_bytes() + activations);
  const std::int64_t sums = std::int64_t{strips} * token_tiles * 512;
  return divide_up(std::max(working, sums), 128) * 128;
}

std::int64_t LaneConfig::shared_bytes(int ring_rows) const {
  const std::int64_t activations =
      std::int64_t{k_warps} * activation_slots * blocks * token_tiles * 256;
  const std::int64_t of_activations = std::int64_t{k_warps} * activation_slots * (wide ? 2 : 1);
  const std::int64_t barriers = (std::int64_t{warps()} * kSlots + of_activations) * 8;
  return warps() * region_bytes(ring_rows) + activations + barriers +
         std::int64_t{row_warps} * strips * 4;
}

int LaneConfig::expected_ring_rows(double density) const {
  // Two stages, and how far the fastest half-column of thousands of warps runs ahead of the slowest
  // (measured on uniform patterns from 50 to 90 %).
  const double positions = 4.0 * fragments();
  const double spread = 15.8 * std::sqrt(positions * density * (1 - density));
  return static_cast<int>(2 * positions * swaps() * density + spread) + mirror_rows() / 4;
}

std::string LaneConfig::name() const {
  if (wide)
    return fmt::format("decode.wide.s{}.n{}.r{}.k{}.b{}.w{}.a{}.c{}", strips, tokens(),
                       row_warps / 4, k_warps, blocks, swap_blocks, activation_slots, split);
  return fmt::format("decode.lane.s{}.n{}.r{}.k{}.b{}.c{}", strips, token_tiles * 8, row_warps,
                     k_warps, blocks, split);
}

cuda::Source LaneConfig::source(const Problem& problem) const {
  cuda::Source source;
  source.name = name();
  source.oldest_arch = 90;
  if (wide) {
    source.text = std::string(cuda::device_text("ops/spmm/cuda/decode/wide.cu"));
    source.newest_arch = 90;  // wgmma came and went with Hopper.
    source.local_bytes = 16;
    source.defines = {fmt::format("STRIPS={}", strips),
                      fmt::format("TOKENS={}", tokens()),
                      fmt::format("ROW_GROUPS={}", row_warps / 4),
                      fmt::format("K_GROUPS={}", k_warps),
                      fmt::format("BLOCKS={}", blocks),
                      fmt::format("SWAP_BLOCKS={}", swap_blocks),
                      fmt::format("WRAP={}", wrap()),
                      fmt::format("SLOTS={}", activation_slots),
                      fmt::format("SPLIT={}", split),
                      fmt::format("BF16={}", problem.weight == DType::kBF16 ? 1 : 0),
                      fmt::format("C_TYPE={}", type_name(problem.output)),
                      fmt::format("ACTIVATION={}", static_cast<int>(problem.activation)),
                      fmt::format("HAS_BIAS={}", problem.bias ? 1 : 0),
                      fmt::format("HAS_RESIDUAL={}", problem.residual ? 1 : 0)};
    return source;
  }
  source.text = std::string(cuda::device_text("ops/spmm/cuda/decode/lane.cu"));
  source.defines = {fmt::format("STRIPS={}", strips),
                    fmt::format("TOKEN_TILES={}", token_tiles),
                    fmt::format("ROW_WARPS={}", row_warps),
                    fmt::format("K_WARPS={}", k_warps),
                    fmt::format("BLOCKS={}", blocks),
                    fmt::format("WRAP={}", wrap()),
                    fmt::format("SPLIT={}", split),
                    fmt::format("BF16={}", problem.weight == DType::kBF16 ? 1 : 0),
                    fmt::format("C_TYPE={}", type_name(problem.output)),
                    fmt::format("ACTIVATION={}", static_cast<int>(problem.activation)),
                    fmt::format("HAS_BIAS={}", problem.bias ? 1 : 0),
                    fmt::format("HAS_RESIDUAL={}", problem.residual ? 1 : 0)};
  return source;
}

cuda::Source LaneConfig::expand_source(int ring_rows) const {
  const int ring = power_of_two_at_least(ring_rows);
  return {.name = fmt::format("decode.expand{}.s{}.r{}.k{}.b{}.w{}.c{}.ring{}", wide ? ".wide" : "",
                              strips, row_warps, k_warps, blocks, swap_blocks, split, ring),
          .text = std::string(cuda::device_text("ops/spmm/cuda/decode/lane_expand.cu")),
          .defines = {fmt::format("STRIPS={}", strips), fmt::format("ROW_WARPS={}", row_warps),
                      fmt::format("K_WARPS={}", k_warps), fmt::format("BLOCKS={}", blocks),
                      fmt::format("SPLIT={}", split), fmt::format("WARPS={}", kExpandWarps),
                      fmt::format("RING_ROWS={}", ring), fmt::format("WIDE={}", wide ? 1 : 0),
                      fmt::format("SWAP_BLOCKS={}", swap_blocks)},
          .oldest_arch = 90};
}

std::size_t LaneConfig::expand_shared_bytes(int ring_rows) const {
  return static_cast<std::size_t>(kExpandWarps) *
         static_cast<std::size_t>(power_of_two_at_least(ring_rows) * kRowBytes +
                                  kSlots * slot_bytes());
}

std::vector<LaneConfig> lane_configs(const Problem& problem, double density,
                                     const cuda::DeviceFacts& device) {
  std::vector<LaneConfig> found;
  const std::int64_t strips = divide_up(problem.m, LaneConfig::kStripRows);
  const int token_tiles = token_tiles_of(problem.n);
  for (int split : kSplits) {
    for (int row_warps : kRowWarps) {
      for (int warps : kWarps) {
        if (warps % row_warps != 0) continue;
        const int most_sums = warps <= 8 ? kMostSumsWide : kMostSums;
        const int most_strips = std::min(kMostStrips, most_sums / (4 * token_tiles));
        // One cluster for each group of multiprocessors, or whole rounds of them.
        const std::int64_t resident = std::max(1, resident_clusters(device.multiprocessors, split));
        const std::int64_t rounds =
            divide_up(strips, resident * row_warps * std::int64_t{most_strips});
        const std::int64_t tiles = std::min(resident * rounds, divide_up(strips, row_warps));
        LaneConfig config{.strips = static_cast<int>(divide_up(strips, tiles * row_warps)),
                          .token_tiles = token_tiles,
                          .row_warps = row_warps,
                          .k_warps = warps / row_warps,
                          .split = split,
                          .row_tiles = static_cast<int>(tiles)};
        for (int blocks : kBlocks) {
          config.blocks = blocks;
          const std::int64_t stages = divide_up(problem.k, 16 * blocks);
          const int ring = config.expected_ring_rows(density);
          const bool fits =
              ring + config.mirror_rows() <= kMostRingRows &&
              config.shared_bytes(ring) <= static_cast<std::int64_t>(device.shared_per_block);
          // A warp with a single stage has nothing to overlap.
          const bool worth =
              stages >= 2 * std::int64_t{config.k_warps} * split || (split == 1 && warps == 8);
          if (fits && worth) found.push_back(config);
        }
      }
    }
  }
  return found;
}

std::vector<LaneConfig> wide_configs(const Problem& problem, double density,
                                     const cuda::DeviceFacts& device) {
  std::vector<LaneConfig> found;
  const std::int64_t strips = divide_up(problem.m, LaneConfig::kStripRows);
  const int token_tiles = wide_token_tiles_of(problem.n);
  for (int split : kWideSplits) {
    for (int warps : kWarps) {
      for (int row_warps = 4; row_warps <= warps; row_warps += 4) {
        if (warps % row_warps != 0) continue;
        const int most_sums = warps <= 8 ? kMostSumsWide : warps <= 12 ? 96 : kMostSums;
        const int most_strips = std::min(kMostStrips, most_sums / (4 * token_tiles));
        if (most_strips == 0) continue;
        const std::int64_t resident = std::max(1, resident_clusters(device.multiprocessors, split));
        const std::int64_t rounds =
            divide_up(strips, resident * row_warps * std::int64_t{most_strips});
        const std::int64_t tiles = std::min(resident * rounds, divide_up(strips, row_warps));
        LaneConfig config{.strips = static_cast<int>(divide_up(strips, tiles * row_warps)),
                          .token_tiles = token_tiles,
                          .row_warps = row_warps,
                          .k_warps = warps / row_warps,
                          .split = split,
                          .row_tiles = static_cast<int>(tiles),
                          .wide = true};
        for (int blocks : kBlocks) {
          config.blocks = blocks;
          const std::int64_t stages = divide_up(problem.k, 16 * blocks);
          if (stages < 2 * std::int64_t{config.k_warps} * split && (split > 1 || warps > 8))
            continue;
          // As many positions between swaps as a lane of eight strips has, and half of that.
          for (int swap_blocks = 1; swap_blocks <= blocks; swap_blocks *= 2) {
            config.swap_blocks = swap_blocks;
            const int fragments = config.fragments();
            if (fragments > kMostStrips || (fragments <= kMostStrips / 4 && swap_blocks < blocks))
              continue;
            const int ring = config.expected_ring_rows(density);
            if (fragments < 2 || ring + config.mirror_rows() > kMostRingRows) continue;
            config.activation_slots = LaneConfig::kMostActivationSlots;
            const auto too_large = [&] {  // With a few rows more than expected.
              return config.shared_bytes(ring + 4) >
                     static_cast<std::int64_t>(device.shared_per_block);
            };
            while (config.activation_slots > LaneConfig::kLeastActivationSlots && too_large())
              --config.activation_slots;
            if (!too_large()) found.push_back(config);
          }
        }
      }
    }
  }
  return found;
}

double estimate_us(const LaneConfig& config, const Problem& problem, double density,
                   const cuda::DeviceFacts& device) {
  if (config.wide) return estimate_wide_us(config, problem, density, device);
  const auto m = static_cast<double>(problem.m);
  const auto k = static_cast<double>(problem.k);
  const double tiles = std::ceil(static_cast<double>(problem.n) / (8.0 * config.token_tiles));
  const double stage_positions = 8.0 * config.strips * config.blocks;  // Of a lane.
  const double weight = m * k * (0.125 + 2 * density * 1.03 + 16 / (32 * stage_positions));
  const double activations = static_cast<double>(config.row_tiles) * k * 16 * config.token_tiles;
  // Reached of the data sheet's bandwidth; from L2 about twice as much.
  const double memory_us = weight * tiles / (0.89e3 * device.memory_gb_per_s);
  const double l2_us = (weight + activations) * tiles / (1.75e3 * device.memory_gb_per_s);
  // Instructions of a lane a position: decoding, then what comes once a block and once a stage.
  const double instructions =
      4.3 + 0.25 * config.token_tiles + 25.0 / (8 * config.strips) + 110 / stage_positions;
  // Wavefronts of shared memory a position: its load, then activations (read by each warp, written
  // once for all along rows) and masks.
  const double wavefronts =
      1 + (config.token_tiles * (2 + 2.0 / config.row_warps) + 1 + config.strips / 4.0) /
              (8 * config.strips);
  // Shares of the issue slots that 8, 12 and 16 warps reach, measured.
  const double issued = config.warps() >= 16 ? 0.73 : config.warps() >= 12 ? 0.68 : 0.58;
  constexpr double kSharedReached = 0.8;
  const double blocks = static_cast<double>(config.row_tiles) * config.split * tiles;
  const double rounds = std::ceil(blocks / std::max(1, device.multiprocessors));
  const double positions = rounds * config.strips * config.row_warps * 16.0 * k / config.split / 32;
  const double clocks_a_us = 1e3 * device.clock_ghz;
  const double decode_us =
      positions * std::max(instructions / (4 * issued), wavefronts / kSharedReached) / clocks_a_us;
  const double longest = std::max({memory_us, l2_us, decode_us});
  constexpr double kLaunchUs = 3.0;
  const double ends_us = 1.5 * (config.split > 1 ? 1 : 0) + 0.25 * config.token_tiles;
  return kLaunchUs + ends_us + longest + 0.15 * std::min(memory_us, decode_us);
}

}  // namespace rarefy::gpu
