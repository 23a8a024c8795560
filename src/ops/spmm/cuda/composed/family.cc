// The composed family: its search space, and its operator.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/spmm/cuda/composed/config.h"
#include "ops/spmm/cuda/composed/even_operator.h"
#include "ops/spmm/cuda/composed/pack.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/source_list.h"

namespace rarefy::gpu {
namespace {

/// Everything of the weight that lies on the device.
struct ComposedBuffers {
  cuda::DeviceBuffer begin, target, columns, values, rows, first, row_of_piece;

  [[nodiscard]] std::size_t bytes() const {
    return begin.size() + target.size() + columns.size() + values.size() + rows.size() +
           first.size() + row_of_piece.size();
  }
};

/// The kernel's argument of that name (pieces.cuh).
struct Pieces {
  cuda::abi::CUdeviceptr row_of_piece, rows, first, sums, arrived;
};

class ComposedOperator final : public Operator {
 public:
  ComposedOperator(const ComposedConfig& config, const Problem& problem, const Weight& weight,
                   const cuda::Stream& stream)
      : config_(config), problem_(problem), device_(&stream.device()) {
    const auto& csr = dynamic_cast<const CsrMatrix&>(*weight.csr);
    const ComposedArrays arrays =
        pack_composed(csr, {.format = {.vec = config.vec,
                                       .index_bits = config.index_bits,
                                       .swizzled = config.swizzled(problem)},
                            .longest_item = longest_item(config, row_stats(*weight.pattern)),
                            .neighbours = neighbours(config),
                            .head = wants_heads() ? config.group * config.unroll : 0});
    items_ = arrays.items();
    heads_ = arrays.heads;
    cut_rows_ = static_cast<std::int64_t>(arrays.rows.size());
    pieces_ = arrays.first.empty() ? 0 : arrays.first.back();
    buffers_.begin = cuda::upload<std::uint32_t>(stream, arrays.begin);
    buffers_.target = cuda::upload<std::uint32_t>(stream, arrays.target);
    buffers_.columns = cuda::upload<std::byte>(stream, arrays.columns);
    buffers_.values = cuda::upload<std::byte>(stream, arrays.values);
    buffers_.rows = cuda::upload<std::uint32_t>(stream, arrays.rows);
    buffers_.first = cuda::upload<std::uint32_t>(stream, arrays.first);
    buffers_.row_of_piece = cuda::upload<std::uint32_t>(stream, arrays.row_of_piece);
    stream.synchronize();  // The arrays go away.
    const cuda::Cubin cubin = cuda::compile(config.source(problem), device_->facts().arch());
    kernel_ = cuda::Kernel(*device_, cubin, "spmm_composed");
    kernel_.allow_shared(config.shared_bytes(problem));
    reserve_scratch(stream, problem.n);
  }

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    const std::int64_t tiles = (o.n + config_.n_tile - 1) / config_.n_tile;
    if (items_ == 0 || tiles == 0) return;
    reserve_scratch(stream, o.n);
    const std::int64_t groups = config_.threads / (config_.group * config_.n_lanes);
    const std::int64_t resident =
        std::max<std::int64_t>(1, device_->facts().multiprocessors * config_.blocks / tiles);
    const std::int64_t needed = (items_ + groups - 1) / groups;
    // With B in shared memory a block is worth keeping for many rounds.
    const std::int64_t blocks = config_.staged ? std::min(resident, needed) : needed;
    const Pieces pieces{.row_of_piece = buffers_.row_of_piece.address(),
                        .rows = buffers_.rows.address(),
                        .first = buffers_.first.address(),
                        .sums = sums_.address(),
                        .arrived = arrived_.address()};
    kernel_.launch(stream,
                   {.grid = {static_cast<unsigned>(blocks), static_cast<unsigned>(tiles)},
                    .threads = static_cast<unsigned>(config_.threads),
                    .shared_bytes = config_.shared_bytes(problem_),
                    .overlaps_previous = device_->overlaps_kernels()},
                   buffers_.begin.address(), buffers_.target.address(), buffers_.columns.address(),
                   buffers_.values.address(), o.b, static_cast<long long>(o.b_stride), o.c,
                   static_cast<long long>(o.c_stride), o.bias, o.residual,
                   static_cast<long long>(o.residual_stride), pieces, static_cast<int>(items_),
                   static_cast<int>(heads_), static_cast<int>(problem_.k), static_cast<int>(o.n));
  }

  [[nodiscard]] std::size_t bytes() const override {
    return buffers_.bytes() + sums_.size() + arrived_.size();
  }
  [[nodiscard]] std::int64_t tokens_a_pass() const override { return config_.n_tile; }
  [[nodiscard]] bool expands() const override { return true; }

  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override {
    if (items_ == 0 || problem_.k == 0) return;
    if (!expand_rows_) {
      const cuda::Cubin cubin =
          cuda::compile(config_.expand_source(problem_), device_->facts().arch());
      expand_rows_ = cuda::Kernel(*device_, cubin, "expand_rows");
      if (cut_rows_ > 0) expand_clear_ = cuda::Kernel(*device_, cubin, "expand_clear");
      if (cut_rows_ > 0) expand_pieces_ = cuda::Kernel(*device_, cubin, "expand_pieces");
    }
    const auto launch = [](std::int64_t blocks) {
      return cuda::Launch{.grid = {static_cast<unsigned>(blocks)}, .threads = 256};
    };
    const int k = static_cast<int>(problem_.k);
    const int heads = static_cast<int>(heads_);
    const int head = config_.group * config_.unroll;
    expand_rows_.launch(stream, launch(items_), buffers_.begin.address(), buffers_.target.address(),
                        buffers_.columns.address(), buffers_.values.address(), heads, head, dense,
                        k);
    if (cut_rows_ == 0) return;
    expand_clear_.launch(stream, launch(cut_rows_), buffers_.rows.address(), dense, k);
    expand_pieces_.launch(stream, launch(items_), buffers_.begin.address(),
                          buffers_.target.address(), buffers_.columns.address(),
                          buffers_.values.address(), heads, head, buffers_.rows.address(),
                          buffers_.row_of_piece.address(), dense, k);
  }

  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    return std::unique_ptr<Operator>(new ComposedOperator(*this, stream));
  }

 private:
  ComposedOperator(const ComposedOperator& from, const cuda::Stream& stream)
      : config_(from.config_),
        problem_(from.problem_),
        device_(from.device_),
        kernel_(from.kernel_),
        expand_rows_(from.expand_rows_),
        expand_clear_(from.expand_clear_),
        expand_pieces_(from.expand_pieces_),
        items_(from.items_),
        heads_(from.heads_),
        cut_rows_(from.cut_rows_),
        pieces_(from.pieces_) {
    buffers_.begin = cuda::copy_on_device(stream, from.buffers_.begin);
    buffers_.target = cuda::copy_on_device(stream, from.buffers_.target);
    buffers_.columns = cuda::copy_on_device(stream, from.buffers_.columns);
    buffers_.values = cuda::copy_on_device(stream, from.buffers_.values);
    buffers_.rows = cuda::copy_on_device(stream, from.buffers_.rows);
    buffers_.first = cuda::copy_on_device(stream, from.buffers_.first);
    buffers_.row_of_piece = cuda::copy_on_device(stream, from.buffers_.row_of_piece);
    reserve_scratch(stream, problem_.n);
  }

  /// Heads save the first load's wait, and cost where the rest of each item begins within a line:
  /// they pay where all items are begun at once (f32, 28672x8192, 99 %, two rounds: 7.10 us
  /// without, 7.28 with; f16, 14336x4096, 95 %, one round: 5.42 and 4.96).
  [[nodiscard]] bool wants_heads() const {
    if (config_.item_vectors > 0) return false;  // Every item is where it must be.
    const std::int64_t tiles = (problem_.n + config_.n_tile - 1) / config_.n_tile;
    const std::int64_t groups = std::int64_t{device_->facts().multiprocessors} * config_.blocks *
                                config_.threads / (config_.group * config_.n_lanes);
    return problem_.m * tiles <= groups;
  }

  /// Grows the scratch for n columns; a graph that was recorded before keeps to fewer.
  void reserve_scratch(const cuda::Stream& stream, std::int64_t n) const {
    if (cut_rows_ == 0) return;
    const std::int64_t tiles = (n + config_.n_tile - 1) / config_.n_tile;
    const std::int64_t sums = (config_.any_order ? cut_rows_ : pieces_) * tiles * config_.n_tile;
    if (static_cast<std::size_t>(sums) * sizeof(float) <= sums_.size()) return;
    const auto zeros = [&](std::int64_t count) {
      cuda::DeviceBuffer buffer(stream, static_cast<std::size_t>(count) * sizeof(float));
      cuda::fill_bytes(stream, buffer.address(), 0, buffer.size());
      return buffer;
    };
    sums_ = zeros(sums);
    arrived_ = zeros(cut_rows_ * tiles);
  }

  ComposedConfig config_;
  Problem problem_;
  const cuda::Device* device_;
  ComposedBuffers buffers_;
  mutable cuda::DeviceBuffer sums_, arrived_;  ///< Of pieces; zeros between runs (pieces.cuh).
  cuda::Kernel kernel_;
  mutable cuda::Kernel expand_rows_, expand_clear_, expand_pieces_;  ///< Once they are needed.
  std::int64_t items_ = 0, heads_ = 0, cut_rows_ = 0, pieces_ = 0;
};

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

/// Threads that share a segment, loads of a thread in flight, and blocks where nonzeros are shared
/// evenly, for as many tokens at most.
constexpr int kEvenGroups[] = {1, 2, 4};
constexpr int kEvenLoads[] = {2, 4};
constexpr BlockShape kEvenShapes[] = {{1024, 1}, {512, 2}};
constexpr int kMostEvenTokens = 4;

/// Every legal configuration that shares nonzeros evenly.
std::vector<ComposedConfig> even_space(const Problem& problem, const RowStats& rows,
                                       const cuda::DeviceFacts& device) {
  Space space{problem, device, std::max(rows.mean, 1.0), {}};
  if (problem.n > kMostEvenTokens) return {};
  const int vec = 16 / static_cast<int>(size_of(problem.weight));
  for (const int group : kEvenGroups) {
    for (const int unroll : kEvenLoads) {
      if (problem.n > 1 && unroll > kEvenLoads[0]) continue;  // Spills.
      for (const BlockShape& shape : kEvenShapes) {
        ComposedConfig config{.index_bits = problem.k <= 65536 ? 16 : 32,
                              .vec = vec,
                              .unroll = unroll,
                              .group = group,
                              .n_tile = power_of_two_at_least(problem.n),
                              .threads = shape.threads,
                              .blocks = shape.blocks,
                              .even = true};
        for (const int bits : {config.index_bits, ComposedConfig::kDeltaBits}) {
          config.index_bits = bits;
          if (config.delta() && !space.delta()) continue;
          const EvenShare share = even_share(config, problem, rows, device);
          const std::size_t bytes =
              config.shared_bytes(problem, static_cast<std::int64_t>(share.vectors),
                                  static_cast<std::int64_t>(share.rows));
          if (bytes * static_cast<std::size_t>(shape.blocks) <= device.shared_per_block)
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
              return std::make_unique<ComposedOperator>(config, problem, weight, stream);
            }};
  }
};

}  // namespace

const Family& composed_family() {
  static const ComposedFamily family;
  return family;
}

}  // namespace rarefy::gpu
