// The composed family: its search space.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "ops/spmm/cuda/composed/config.h"
#include "ops/spmm/cuda/composed/even_operator.h"
#include "ops/spmm/cuda/composed/row_operator.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/source_list.h"

namespace rarefy::gpu {
namespace {

int power_of_two_at_least(std::int64_t n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}

/// Shapes of a block: threads, and blocks of a multiprocessor.
struct BlockShape {
  int threads, blocks;
};
/// One block of fewer threads leaves room for the kernel behind to start.
constexpr BlockShape kStagedShapes[] = {{1024, 1}, {512, 2}, {1024, 2}, {768, 1}, {512, 1}};
constexpr BlockShape kCachedShapes[] = {{256, 4}};
constexpr int kGroups[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
/// A group of several warps meets at barriers for every row: it pays where rows are too few to keep
/// smaller groups busy. But for one size, such groups are tried only there.
constexpr int kUsualWarpsGroup = 128;
constexpr int kWidestStaged = 32, kWidestCached = 64;
/// Tokens that lie apart cost a register pair each when they are gathered from memory.
constexpr int kWidestApart = 4;
/// The widest tile that fits is tried, and half of it unless that is narrower than this: fewer sums
/// a thread, but more passes over the weight.
constexpr int kNarrowestHalf = 8;
/// What a thread gathers at once: more is two loads, and twice the accumulators.
constexpr int kGatherBytes = 16;
/// With 2048 threads a multiprocessor, a thread has 32 registers: one sum and few loads.
constexpr int kMostCrowdedLoads = 4;
/// Half of that many threads have 64: eight sums and two loads of four nonzeros are too many.
constexpr int kManySums = 8;
/// Steps that a thread of a part of a warp may take for a row: beyond, more threads are faster.
constexpr int kMostSteps = 64;

struct Space {
  const Problem& problem;
  const cuda::DeviceFacts& device;
  double row;  ///< Nonzeros of an ordinary one.
  std::vector<ComposedConfig> configs;

  void add(ComposedConfig config) {
    if (config.legal(problem, device)) configs.push_back(config);
  }

  /// Whether delta is worth trying: where a third of the steps or more needs a zero between, 16-bit
  /// columns are as short.
  [[nodiscard]] bool delta() const {
    constexpr double kMostZeros = 0.33;
    const double density = std::min(1.0, row / static_cast<double>(problem.k));
    return std::pow(1 - density, 63) < kMostZeros;
  }

  /// How a group shares a row, for one tile: `config` has the tile set.
  void add_groups(ComposedConfig config, std::span<const BlockShape> shapes) {
    const int sums = config.n_tile / config.n_lanes;
    const int widest_vec = 16 / static_cast<int>(size_of(problem.weight));
    for (int vec : {widest_vec, widest_vec / 2}) {
      if (!config.staged && vec == 8 && sums >= 2) continue;  // Spills.
      for (int group : kGroups) {
        // No more threads than vectors, nor rows that take forever.
        if (group > 1 && (group - 1) * vec >= row) continue;
        if (group < 32 && row > group * vec * kMostSteps) continue;
        if (group * config.n_lanes > kUsualWarpsGroup || group == 64) {
          const std::int64_t tiles = (problem.n + config.n_tile - 1) / config.n_tile;
          const std::int64_t usual = problem.m * tiles * kUsualWarpsGroup;
          if (usual > std::int64_t{device.multiprocessors} * 1024) continue;
        }
        const bool full = sums >= kManySums || (vec == 8 && (sums >= 2 || !config.staged));
        config.vec = vec;
        config.group = group;
        config.unroll = row > group * vec && !full ? 2 : 1;
        for (const BlockShape& shape : shapes) {
          const bool crowded = shape.threads * shape.blocks == 2048;
          if (crowded && (sums > 1 || vec * config.unroll > kMostCrowdedLoads || group > 32))
            continue;
          config.threads = shape.threads;
          config.blocks = shape.blocks;
          config.index_bits = problem.k <= 65536 ? 16 : 32;
          add(config);
          config.index_bits = ComposedConfig::kDeltaBits;
          if (delta()) add(config);
        }
      }
    }
  }

  void add_tiles(bool staged, int widest, std::span<const BlockShape> shapes) {
    const int b_bytes = static_cast<int>(size_of(problem.activations));
    bool found = false;
    for (int tile = std::min(widest, power_of_two_at_least(problem.n)); tile > 0; tile /= 2) {
      if (found && tile < kNarrowestHalf) return;
      const std::size_t before = configs.size();
      add_groups(
          {.n_tile = tile, .n_lanes = std::max(1, tile * b_bytes / kGatherBytes), .staged = staged},
          shapes);
      if (found) return;
      found = configs.size() > before;
    }
  }
};

// Where nonzeros are shared evenly:
constexpr int kEvenGroups[] = {1, 2, 4};                     // Threads that share a segment.
constexpr int kEvenLoads[] = {2, 4};                         // Of a thread, in flight;
constexpr int kEvenLoadsOfMore = 2;                          // with more tokens than one: spills.
constexpr BlockShape kEvenShapes[] = {{1024, 1}, {512, 2}};  // Of a block.
constexpr int kMostEvenTokens = 4;                           // More are for other kernels.

/// Every legal configuration that shares nonzeros evenly. Its columns have 16 bits: of as many as
/// need more, activations do not fit in shared memory.
std::vector<ComposedConfig> even_space(const Problem& problem, const RowStats& rows,
                                       const cuda::DeviceFacts& device) {
  if (problem.n > kMostEvenTokens) return {};
  Space space{problem, device, std::max(rows.mean, 1.0), {}};
  for (const int group : kEvenGroups) {
    for (const int unroll : kEvenLoads) {
      if (problem.n > 1 && unroll > kEvenLoadsOfMore) continue;
      for (const BlockShape& shape : kEvenShapes) {
        for (const int bits : {16, ComposedConfig::kDeltaBits}) {
          const ComposedConfig config{.index_bits = bits,
                                      .vec = 16 / static_cast<int>(size_of(problem.weight)),
                                      .unroll = unroll,
                                      .group = group,
                                      .n_tile = power_of_two_at_least(problem.n),
                                      .threads = shape.threads,
                                      .blocks = shape.blocks,
                                      .even = true};
          if (config.delta() && !space.delta()) continue;
          if (config.holds(problem, even_share(config, problem, rows, device), device))
            space.add(config);
        }
      }
    }
  }
  return std::move(space.configs);
}

/// Every legal configuration for rows of about `mean` nonzeros.
std::vector<ComposedConfig> search_space(const Problem& problem, double mean,
                                         const cuda::DeviceFacts& device) {
  Space space{problem, device, std::max(mean, 1.0), {}};
  space.add_tiles(true, kWidestStaged, kStagedShapes);
  // Columns of B that lie apart cost a load each: gathered from memory only where nothing else
  // fits.
  const bool together = problem.layout == Layout::kFeatureMajor || problem.n == 1;
  if (together || space.configs.empty())
    space.add_tiles(false, together ? kWidestCached : kWidestApart, kCachedShapes);
  return std::move(space.configs);
}

class ComposedFamily final : public Family {
 public:
  [[nodiscard]] std::string_view name() const override { return "composed"; }

  [[nodiscard]] Support supports(const Problem& problem,
                                 const cuda::DeviceFacts& device) const override {
    for (DType dtype : {problem.weight, problem.activations, problem.output}) {
      if (!is_compute_dtype(dtype))
        return Support::no(fmt::format("expected f32, f16 or bf16, got {}", to_string(dtype)));
    }
    if (device.major < 8) return Support::no("needs compute capability 8.0");
    return Support::yes();
  }

  [[nodiscard]] std::vector<Candidate> candidates(const Problem& problem,
                                                  const PatternStats& pattern,
                                                  const cuda::DeviceFacts& device) const override {
    const RowStats rows = row_stats(pattern);
    std::vector<Candidate> found;
    for (ComposedConfig config : search_space(problem, rows.mean, device)) {
      config.whole_rows = rows.longest <= longest_item(config, rows);
      config.item_vectors = alike_vectors(config, rows);
      config.baked = config.item_vectors > 0;
      const double us = estimate_us(config, problem, rows, device);
      found.push_back(candidate(config, problem, us));
      if (!config.baked) {
        // Constants of the weight are worth a per cent or two: tried for the winner only.
        ComposedConfig constant = config;
        constant.baked = true;
        found.back().refine = [constant, problem, us] {
          return std::vector<Candidate>{candidate(constant, problem, us)};
        };
      }
      if (problem.any_order && rows.longest > longest_item(config, rows) * neighbours(config)) {
        config.any_order = true;
        found.push_back(candidate(config, problem, us));
      }
    }
    for (const ComposedConfig& config : even_space(problem, rows, device))
      found.push_back(candidate(config, problem, estimate_us(config, problem, rows, device)));
    return found;
  }

  [[nodiscard]] std::vector<cuda::Source> all_sources() const override {
    // The space depends on the dtypes, on N and on how long rows are; K only decides what fits.
    const cuda::DeviceFacts hopper = cuda::h100_facts();
    SourceList sources;
    for (DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
      for (std::int64_t n : {1, 2, 4, 8, 16, 32, 64}) {
        for (double mean : {4.0, 40.0, 400.0, 4000.0}) {
          for (std::int64_t k : {std::int64_t{1024}, std::int64_t{100000}}) {
            const Problem problem{
                .m = 4096, .k = k, .n = n, .weight = dtype, .activations = dtype, .output = dtype};
            for (const ComposedConfig& config : search_space(problem, mean, hopper)) {
              sources.add(config.source(problem), dtype);
              sources.add(config.expand_source(problem), dtype);
            }
            for (const ComposedConfig& config : even_space(problem, {.mean = mean}, hopper))
              sources.add(config.source(problem), dtype);
          }
        }
      }
    }
    return std::move(sources).take();
  }

 private:
  static Candidate candidate(const ComposedConfig& config, const Problem& problem, double us) {
    return {.name = config.name(),
            .estimate_us = us,
            .source = config.source(problem),
            .build = [config, problem](const Weight& weight,
                                       const cuda::Stream& stream) -> std::unique_ptr<Operator> {
              if (config.even) return make_even_operator(config, problem, weight, stream);
              return make_row_operator(config, problem, weight, stream);
            }};
  }
};

}  // namespace

const Family& composed_family() {
  static const ComposedFamily family;
  return family;
}

}  // namespace rarefy::gpu
