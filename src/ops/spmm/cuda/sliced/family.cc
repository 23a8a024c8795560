// The sliced family: its search space, and its operator.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/spmm/cuda/expanded.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/sliced/config.h"
#include "ops/spmm/cuda/sliced/pack.h"
#include "ops/spmm/cuda/source_list.h"

namespace rarefy::gpu {
namespace {

/// Everything of the weight that lies on the device.
struct SlicedBuffers {
  cuda::DeviceBuffer rows, streams, slices, slots, fold_begin, folds, extra_begin, extra_rows,
      batches;

  template <class Each>
  void for_each(const Each& each) {
    for (cuda::DeviceBuffer* buffer : {&rows, &streams, &slices, &slots, &fold_begin, &folds,
                                       &extra_begin, &extra_rows, &batches})
      each(*buffer);
  }
};

double mean_of(const PatternStats& pattern) {
  return pattern.rows > 0 ? static_cast<double>(pattern.nnz) / static_cast<double>(pattern.rows)
                          : 0.0;
}

class SlicedOperator final : public Operator {
 public:
  SlicedOperator(const SlicedConfig& config, const Problem& problem, const Weight& weight,
                 const cuda::Stream& stream)
      : config_(config), problem_(problem), device_(&stream.device()) {
    const auto& csr = dynamic_cast<const CsrMatrix&>(*weight.csr);
    ranges_ = config.ranges(problem, device_->facts());
    const SlicedArrays arrays =
        pack_sliced(csr, split_rows(weight.pattern->row_nnz, ranges_),
                    {.lanes = config.lanes,
                     .warps = config.threads / 32,
                     .part = config.part,
                     .parts = config.parts,
                     .longest = longest_item(config, mean_of(*weight.pattern))});
    slots_ = arrays.most_slots;
    buffers_.rows = cuda::upload<std::uint32_t>(stream, arrays.rows);
    buffers_.streams = cuda::upload<SliceStream>(stream, arrays.streams);
    buffers_.slices = cuda::upload<std::uint32_t>(stream, arrays.slices);
    buffers_.slots = cuda::upload<std::uint16_t>(stream, arrays.slots);
    buffers_.fold_begin = cuda::upload<std::uint32_t>(stream, arrays.fold_begin);
    buffers_.folds = cuda::upload<SliceFold>(stream, arrays.folds);
    buffers_.extra_begin = cuda::upload<std::uint32_t>(stream, arrays.extra_begin);
    buffers_.extra_rows = cuda::upload<std::uint32_t>(stream, arrays.extra_rows);
    buffers_.batches = cuda::upload<std::byte>(stream, arrays.batches);
    stream.synchronize();  // The arrays go away.
    kernel_ = cuda::Kernel(*device_, config.source(problem), "spmm_sliced");
    kernel_.allow_shared(config.shared_bytes(problem, slots_));
  }

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    const std::int64_t tile = config_.tile(problem_);
    const std::int64_t tiles = (o.n + tile - 1) / tile;
    if (problem_.m == 0 || tiles == 0) return;
    kernel_.launch(stream,
                   {.grid = {static_cast<unsigned>(ranges_), static_cast<unsigned>(tiles)},
                    .threads = static_cast<unsigned>(config_.threads),
                    .shared_bytes = config_.shared_bytes(problem_, slots_),
                    .overlaps_previous = device_->overlaps_kernels()},
                   buffers_.rows.address(), buffers_.streams.address(), buffers_.slices.address(),
                   buffers_.slots.address(), buffers_.fold_begin.address(),
                   buffers_.folds.address(), buffers_.batches.address(), o.b,
                   static_cast<long long>(o.b_stride), o.c, static_cast<long long>(o.c_stride),
                   o.bias, o.residual, static_cast<long long>(o.residual_stride),
                   static_cast<int>(slots_), static_cast<int>(problem_.k), static_cast<int>(o.n));
  }

  [[nodiscard]] std::size_t bytes() const override {
    std::size_t sum = 0;
    const_cast<SlicedBuffers&>(buffers_).for_each(
        [&](const cuda::DeviceBuffer& buffer) { sum += buffer.size(); });
    return sum;
  }

  [[nodiscard]] std::int64_t tokens_a_pass() const override { return config_.tile(problem_); }
  [[nodiscard]] bool expands() const override { return true; }

  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override {
    if (problem_.m == 0 || problem_.k == 0) return;
    clear_dense(stream, problem_, dense);
    if (!expand_)
      expand_ = cuda::Kernel(*device_, config_.expand_source(problem_), "expand_sliced");
    expand_.launch(
        stream, {.grid = {static_cast<unsigned>(ranges_ * config_.parts)}, .threads = 256},
        buffers_.rows.address(), buffers_.streams.address(), buffers_.slices.address(),
        buffers_.slots.address(), buffers_.extra_begin.address(), buffers_.extra_rows.address(),
        buffers_.batches.address(), dense, static_cast<int>(problem_.k));
  }

  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    return std::unique_ptr<Operator>(new SlicedOperator(*this, stream));
  }

 private:
  SlicedOperator(const SlicedOperator& from, const cuda::Stream& stream)
      : config_(from.config_),
        problem_(from.problem_),
        device_(from.device_),
        kernel_(from.kernel_),
        expand_(from.expand_),
        ranges_(from.ranges_),
        slots_(from.slots_) {
    const auto copy = [&](const cuda::DeviceBuffer& buffer) {
      return cuda::copy_on_device(stream, buffer);
    };
    const SlicedBuffers& b = from.buffers_;
    buffers_ = {copy(b.rows),        copy(b.streams),    copy(b.slices),
                copy(b.slots),       copy(b.fold_begin), copy(b.folds),
                copy(b.extra_begin), copy(b.extra_rows), copy(b.batches)};
  }

  SlicedConfig config_;
  Problem problem_;
  const cuda::Device* device_;
  SlicedBuffers buffers_;
  cuda::Kernel kernel_;
  mutable cuda::Kernel expand_;  ///< Once it is needed.
  std::int64_t ranges_ = 0, slots_ = 0;
};

/// The first KiB of a block's shared memory belongs to the driver.
constexpr std::size_t kReservedShared = 1024;
constexpr int kMostParts = 8;
/// Beyond, tensor cores multiply the zeros faster; f32 has none.
constexpr double kDensestOf16Bits = 0.25;

/// What a thread holds decides how many fit: those that would spill are left out.
bool fits_registers(const SlicedConfig& config) {
  int most = 512;
  if (config.planes == 1) most = 1024;
  if (config.planes == 2 && config.parts == 1) most = config.lanes <= 4 ? 1024 : 768;
  return config.threads * config.blocks <= most;
}

/// Whether a block's rows are work for its threads, and not for many more.
bool fills_block(const SlicedConfig& config, const Problem& problem,
                 const cuda::DeviceFacts& device) {
  constexpr std::int64_t kMostRounds = 16;
  const std::int64_t lanes = problem.m * config.lanes / config.ranges(problem, device);
  const bool few = lanes * 2 < config.threads && config.threads > 256;
  const bool many = lanes > kMostRounds * config.threads && config.threads < 512;
  return !few && !many;
}

/// Every configuration whose B fits, with `slots_of(config)` sums beside it.
template <class SlotsOf>
std::vector<SlicedConfig> search_space(const Problem& problem, double mean,
                                       const cuda::DeviceFacts& device, const SlotsOf& slots_of) {
  std::vector<SlicedConfig> found;
  const auto fits = [&](const SlicedConfig& c) {
    const std::size_t bytes = c.shared_bytes(problem, slots_of(c));
    return bytes <= device.shared_per_block &&
           (bytes + kReservedShared) * static_cast<std::size_t>(c.blocks) <=
               device.shared_per_multiprocessor;
  };
  struct Shape {
    int threads, blocks;
  };
  for (const Shape& shape : {Shape{1024, 1}, Shape{512, 2}, Shape{768, 1}, Shape{512, 1},
                             Shape{256, 2}, Shape{256, 1}}) {
    for (const int planes : {1, 2, 4}) {
      SlicedConfig config{.planes = planes, .threads = shape.threads, .blocks = shape.blocks};
      // Twice as many columns as there are would be work for nothing.
      if (planes > 1 && config.tile(problem) >= 2 * problem.n) continue;
      for (config.parts = 1; config.parts <= kMostParts; ++config.parts) {
        config.part = ((problem.k + config.parts - 1) / config.parts + 7) / 8 * 8;
        if (config.part + 8 <= 65536 && fits(config)) break;
      }
      if (config.parts > kMostParts) continue;
      for (config.lanes = 1; config.lanes <= 32; config.lanes *= 2) {
        if (config.lanes > 1 && mean / config.parts < config.lanes) break;
        if (fits_registers(config) && fills_block(config, problem, device)) found.push_back(config);
      }
    }
  }
  return found;
}

class SlicedFamily final : public Family {
 public:
  [[nodiscard]] std::string_view name() const override { return "sliced"; }

  [[nodiscard]] Support supports(const Problem& problem,
                                 const cuda::DeviceFacts& device) const override {
    for (DType dtype : {problem.weight, problem.activations, problem.output}) {
      if (!is_compute_dtype(dtype))
        return Support::no(fmt::format("expected f32, f16 or bf16, got {}", to_string(dtype)));
    }
    if (device.major < 8) return Support::no("needs compute capability 8.0");
    if (2 * problem.n * static_cast<std::int64_t>(size_of(problem.activations)) < 16)
      return Support::no(fmt::format("rows of B of 16 bytes, N = {} is few", problem.n));
    return Support::yes();
  }

  [[nodiscard]] std::vector<Candidate> candidates(const Problem& problem,
                                                  const PatternStats& pattern,
                                                  const cuda::DeviceFacts& device) const override {
    const double mean = mean_of(pattern);
    std::vector<Candidate> found;
    if (size_of(problem.activations) < 4 &&
        mean > kDensestOf16Bits * static_cast<double>(problem.k))
      return found;
    const auto slots_of = [&](const SlicedConfig& config) {
      return most_slots(pattern.row_nnz,
                        split_rows(pattern.row_nnz, config.ranges(problem, device)),
                        longest_item(config, mean));
    };
    for (const SlicedConfig& config : search_space(problem, mean, device, slots_of)) {
      found.push_back(
          {.name = config.name(problem),
           .estimate_us = estimate_us(config, problem, mean, device),
           .source = config.source(problem),
           .build = [config, problem](const Weight& weight, const cuda::Stream& stream) {
             return std::make_unique<SlicedOperator>(config, problem, weight, stream);
           }});
    }
    return found;
  }

  [[nodiscard]] std::vector<cuda::Source> all_sources() const override {
    const cuda::DeviceFacts hopper = cuda::h100_facts();
    SourceList sources;
    for (DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
      // All planes; K in one part, and in several.
      for (std::int64_t k : {4096, 14336}) {
        const Problem problem{
            .m = 4096, .k = k, .n = 64, .weight = dtype, .activations = dtype, .output = dtype};
        for (const SlicedConfig& config :
             search_space(problem, 100, hopper, [](const SlicedConfig&) { return 512; })) {
          sources.add(config.source(problem), dtype);
          sources.add(config.expand_source(problem), dtype);
        }
      }
    }
    return std::move(sources).take();
  }

 private:
};

}  // namespace

const Family& sliced_family() {
  static const SlicedFamily family;
  return family;
}

}  // namespace rarefy::gpu
