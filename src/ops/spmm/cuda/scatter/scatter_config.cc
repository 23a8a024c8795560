#include "ops/spmm/cuda/scatter/scatter_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cuda/device_text.h"
#include "ops/spmm/cuda/epilogue.h"
#include "ops/spmm/cuda/row_groups.h"

namespace rarefy::gpu {
namespace {

constexpr int kSplits[] = {1, 2, 4};
constexpr int kPerWarp[] = {2, 4, 8, 13, 24};  // More do not fit in the producers' registers.
constexpr int kFewestRows = 48;                // Activations of a stage weigh as much as 64 rows.

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

int slabs_of(std::int64_t n) {
  return n <= 16 ? 1 : n <= 32 ? 2 : 4;
}

/// Rounds of 32 that a stage of uniform random nonzeros needs, but for one in a thousand.
int expected_rounds(int rows, double density) {
  const double positions = static_cast<double>(rows) * ScatterConfig::kStageColumns;
  const double spread = 3.1 * std::sqrt(positions * density * (1 - density));
  return static_cast<int>(std::ceil((positions * density + spread) / 32));
}

/// wgmma of 64 tokens and `rows` rows: the instruction names each of its registers.
std::string wgmma_text(int rows, bool bf16) {
  const int sums = rows / 2;
  std::string registers, operands;
  for (int i = 0; i < sums; ++i) {
    registers += fmt::format("{}%{}", i == 0 ? "" : ",", i);
    operands += fmt::format("{}\"+f\"(d[{}])", i == 0 ? "" : ", ", i);
  }
  const char* type = bf16 ? "bf16" : "f16";
  return fmt::format(
      "__device__ __forceinline__ void wgmma(float (&d)[{}], unsigned long long a, unsigned long "
      "long b) {{\n"
      "  asm volatile(\"wgmma.mma_async.sync.aligned.m64n{}k16.f32.{}.{} {{{}}}, "
      "%{}, %{}, 1, 1, 1, 0, 0;\"\n"
      "               : {}\n"
      "               : \"l\"(a), \"l\"(b));\n}}\n",
      sums, rows, type, type, registers, sums, sums + 1, operands);
}

}  // namespace

std::int64_t ScatterConfig::shared_bytes(int rounds, int stages) const {
  const std::int64_t tiles_bytes = std::int64_t{kBuffers} * (rows * 128 + 1024);
  // wgmma reads 64 tokens, whether they are there or not.
  const std::int64_t activations =
      std::int64_t{kGroups} * (2 + activation_stages) * slabs * 2048 + (4 - slabs) * 2048;
  const std::int64_t words = std::int64_t{kWordSlots} * rounds * 128;
  const std::int64_t barriers = std::int64_t{2 * kBuffers + kWordSlots} * 8;
  const std::int64_t tables = std::int64_t{stages} * 4 + rows / kGroupRows * 4;
  // Sums take the place of tiles and what lies behind them.
  const std::int64_t sums = std::int64_t{slabs} * 16 * (rows + 8) * 4;
  return std::max(tiles_bytes + activations + words, sums) + barriers + tables;
}

std::string ScatterConfig::name() const {
  return fmt::format("scatter.r{}.n{}.p{}.a{}.c{}", rows, slabs * 16, per_warp, activation_stages,
                     split);
}

cuda::Source ScatterConfig::source(const Problem& problem) const {
  cuda::Source source{.name = name(), .text = {}, .defines = epilogue_defines(problem)};
  source.text = wgmma_text(rows, problem.weight == DType::kBF16) +
                std::string(cuda::device_text("ops/spmm/cuda/scatter/scatter.cu"));
  source.oldest_arch = source.newest_arch = 90;
  const auto define = [&](const char* what, auto value) {
    source.defines.push_back(fmt::format("{}={}", what, value));
  };
  define("ROWS", rows);
  define("SLABS", slabs);
  define("PER_WARP", per_warp);
  define("ACTIVATION_STAGES", activation_stages);
  define("SPLIT", split);
  define("C_TYPE", cuda::device_type(problem.output));
  return source;
}

std::vector<ScatterConfig> scatter_configs(const Problem& problem, double density,
                                           const cuda::DeviceFacts& device) {
  std::vector<ScatterConfig> found;
  constexpr int kGroup = ScatterConfig::kGroupRows;
  const std::int64_t groups = divide_up(problem.m, kGroup);
  const std::int64_t stages = divide_up(problem.k, ScatterConfig::kStageColumns);
  for (const int split : kSplits) {
    if (split > 1 && stages < std::int64_t{8} * split) continue;
    const std::int64_t resident = resident_clusters(device.multiprocessors, split);
    const std::int64_t rounds = divide_up(groups, resident * (ScatterConfig::kMostRows / kGroup));
    ScatterConfig config{.rows = static_cast<int>(divide_up(groups, resident * rounds)) * kGroup,
                         .slabs = slabs_of(problem.n),
                         .split = split};
    // Of fewer rows a tile, the kernel with a smaller cluster has as many blocks.
    if (split > 1 && config.rows / 2 < kFewestRows) continue;
    config.tiles = static_cast<int>(divide_up(groups, config.rows / kGroup));
    const int needed = static_cast<int>(
        divide_up(expected_rounds(config.rows, density), config.kProducers / config.kGroups));
    config.per_warp = *std::find_if(std::begin(kPerWarp), std::end(kPerWarp) - 1,
                                    [&](int p) { return p >= needed; });
    // A stage may come in several.
    const auto most_stages =
        static_cast<int>(divide_up(stages, split) *
                         divide_up(std::int64_t{config.rows} * ScatterConfig::kStageColumns,
                                   std::int64_t{config.most_rounds()} * 32));
    const auto fits = [&](int slots) {
      config.activation_stages = slots;
      return config.shared_bytes(config.most_rounds(), most_stages) <=
             static_cast<std::int64_t>(device.shared_per_block);
    };
    if (fits(3) || fits(2) || fits(1)) found.push_back(config);
  }
  return found;
}

double estimate_us(const ScatterConfig& config, const Problem& problem, double density,
                   const cuda::DeviceFacts& device) {
  const double passes = std::ceil(static_cast<double>(problem.n) / (16.0 * config.slabs));
  const double stages = std::ceil(
      static_cast<double>(divide_up(problem.k, ScatterConfig::kStageColumns)) / config.split);
  const double nonzeros = config.rows * ScatterConfig::kStageColumns * density;
  const double stored = nonzeros + 16;  // The last round is half full.
  const double rounds =
      std::ceil(static_cast<double>(config.blocks()) / std::max(1, device.multiprocessors));
  const double clocks_a_us = 1e3 * device.clock_ghz;
  // Of a stage, in clocks of shared memory: the tile, activations in and out, words in and out and
  // stored twice, with the conflicts of the fullest bank.
  const double conflicts = 1 + 2.1 / std::sqrt(std::max(1.0, nonzeros / 32));
  const double shared =
      config.rows + 32.0 * config.slabs + stored * (2.0 / 32 + 2.0 / 32 * conflicts);
  const double tensor = 2.0 * config.rows;
  constexpr double kReached = 0.75;
  const double handing_over = 160 + 50.0 * config.slabs;  // Measured.
  const double stage = std::max(shared / kReached, tensor) + handing_over;
  const double work_us = rounds * stages * stage / clocks_a_us;
  const double bytes = static_cast<double>(config.blocks()) * stages * stored * 4;
  const double memory_us = bytes / (0.87e3 * device.memory_gb_per_s);
  const double ends_us = 3.5 + (config.split > 1 ? 1.5 : 0);
  return passes * (ends_us + std::max(work_us, memory_us));
}

}  // namespace rarefy::gpu
