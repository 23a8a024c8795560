// The scatter family: dense tiles made of nonzeros in shared memory, tens of tokens.
#include <fmt/format.h>

#include "base/check.h"
#include "cuda/device_text.h"
#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/spmm/cuda/expanded.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/few_tokens.h"
#include "ops/spmm/cuda/scatter/scatter_pack.h"
#include "ops/spmm/cuda/source_list.h"

namespace rarefy::gpu {
namespace {

/// The same for every configuration and dtype.
cuda::Source scatter_expand_source() {
  return {.name = "scatter.expand",
          .text = std::string(cuda::device_text("ops/spmm/cuda/scatter/expand.cu"))};
}

class ScatterOperator final : public Operator {
 public:
  ScatterOperator(const ScatterConfig& config, const Problem& problem, const Weight& weight,
                  const cuda::Stream& stream)
      : config_(config), problem_(problem) {
    const auto& csr = dynamic_cast<const CsrMatrix&>(*weight.csr);
    const ScatterArrays arrays = pack_scatter(csr, config, default_pool());
    rounds_ = arrays.most_rounds;
    stages_ = arrays.most_stages;
    const cuda::Device& device = stream.device();
    const std::int64_t shared = config.shared_bytes(rounds_, stages_);
    if (shared > static_cast<std::int64_t>(device.facts().shared_per_block))
      fail(ErrorKind::kUnsupported,
           "{}: needs {} bytes of shared memory for {} stages of {} rounds, a block has {}",
           config.name(), shared, stages_, rounds_, device.facts().shared_per_block);
    kernel_ = cuda::Kernel(device, config.source(problem), "spmm_scatter");
    kernel_.allow_shared(static_cast<std::size_t>(shared));
    stream_ = cuda::upload<std::uint32_t>(stream, arrays.stream);
    blocks_ = cuda::upload<ScatterBlock>(stream, arrays.blocks);
    table_ = cuda::upload<std::uint32_t>(stream, arrays.stages);
    groups_ = cuda::upload<std::int32_t>(stream, arrays.groups);
    stream.synchronize();  // The arrays go away.
  }

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    if (o.n == 0 || problem_.m == 0) return;
    const std::int64_t tile = std::int64_t{config_.slabs} * 16;
    kernel_.launch(
        stream,
        {.grid = {static_cast<unsigned>(config_.blocks()),
                  static_cast<unsigned>((o.n + tile - 1) / tile)},
         .threads = static_cast<unsigned>(config_.threads()),
         .shared_bytes = static_cast<std::size_t>(config_.shared_bytes(rounds_, stages_)),
         .cluster = static_cast<unsigned>(config_.split),
         .overlaps_previous = true},
        stream_.address(), blocks_.address(), table_.address(), groups_.address(), stages_,
        static_cast<unsigned>(rounds_ * 128), o.b, static_cast<long long>(o.b_stride), o.c,
        static_cast<long long>(o.c_stride), o.bias, o.residual,
        static_cast<long long>(o.residual_stride), static_cast<int>(problem_.m),
        static_cast<int>(problem_.k), static_cast<int>(o.n));
  }

  [[nodiscard]] std::size_t bytes() const override {
    return stream_.size() + blocks_.size() + table_.size() + groups_.size();
  }

  [[nodiscard]] std::int64_t tokens_a_pass() const override {
    return std::int64_t{config_.slabs} * 16;
  }
  [[nodiscard]] bool expands() const override { return true; }

  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override {
    if (problem_.m == 0 || problem_.k == 0) return;
    if (!expand_)
      expand_ = cuda::Kernel(stream.device(), scatter_expand_source(), "expand_scatter");
    const unsigned turns = expanding_turns(config_.tiles);
    expand_.launch(stream,
                   {.grid = {static_cast<unsigned>(config_.tiles) * turns},
                    .threads = 256,
                    .shared_bytes = static_cast<std::size_t>(config_.rows) * 128 + 1024},
                   stream_.address(), blocks_.address(), table_.address(), groups_.address(),
                   static_cast<unsigned>(config_.rows), static_cast<unsigned>(config_.split), turns,
                   dense, static_cast<long long>(problem_.m), static_cast<long long>(problem_.k));
  }

  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    return std::unique_ptr<Operator>(new ScatterOperator(*this, stream));
  }

 private:
  ScatterOperator(const ScatterOperator& from, const cuda::Stream& stream)
      : config_(from.config_),
        problem_(from.problem_),
        kernel_(from.kernel_),
        expand_(from.expand_),
        stream_(cuda::copy_on_device(stream, from.stream_)),
        blocks_(cuda::copy_on_device(stream, from.blocks_)),
        table_(cuda::copy_on_device(stream, from.table_)),
        groups_(cuda::copy_on_device(stream, from.groups_)),
        rounds_(from.rounds_),
        stages_(from.stages_) {}

  ScatterConfig config_;
  Problem problem_;
  cuda::Kernel kernel_;
  mutable cuda::Kernel expand_;  ///< Once it is needed.
  cuda::DeviceBuffer stream_, blocks_, table_, groups_;
  int rounds_ = 0, stages_ = 0;
};

class ScatterFamily final : public Family {
 public:
  [[nodiscard]] std::string_view name() const override { return "scatter"; }

  [[nodiscard]] Support supports(const Problem& problem,
                                 const cuda::DeviceFacts& device) const override {
    if (device.major != 9) return Support::no("needs compute capability 9.0, for its wgmma");
    // A stage of the table names one of 2^16 blocks of 64 columns.
    return supports_few_tokens(problem, std::int64_t{1} << 22);
  }

  [[nodiscard]] std::vector<Candidate> candidates(const Problem& problem,
                                                  const PatternStats& pattern,
                                                  const cuda::DeviceFacts& device) const override {
    std::vector<Candidate> found;
    for (const ScatterConfig& config : scatter_configs(problem, pattern.density(), device)) {
      found.push_back(
          {.name = config.name(),
           .estimate_us = estimate_us(config, problem, pattern.density(), device),
           .source = config.source(problem),
           .build = [config, problem](const Weight& weight, const cuda::Stream& stream) {
             return std::make_unique<ScatterOperator>(config, problem, weight, stream);
           }});
    }
    return found;
  }

  [[nodiscard]] std::vector<cuda::Source> all_sources() const override {
    const cuda::DeviceFacts hopper = cuda::h100_facts();
    SourceList sources;
    // What weights of models' layers get: how many rows a tile has follows from M.
    const auto add = [&](DType dtype, std::int64_t m, std::int64_t n, double density) {
      const Problem problem{
          .m = m, .k = 4096, .n = n, .weight = dtype, .activations = dtype, .output = dtype};
      for (const ScatterConfig& config : scatter_configs(problem, density, hopper)) {
        sources.add(config.source(problem), dtype);
      }
    };
    for (const std::int64_t m : {4096, 14336, 28672}) {
      for (const double density : {0.2, 0.1, 0.05, 0.01}) {
        for (const std::int64_t n : {16, 64}) add(DType::kF16, m, n, density);
      }
    }
    add(DType::kBF16, 14336, 32, 0.1);
    sources.add(scatter_expand_source());
    return std::move(sources).take();
  }
};

}  // namespace

const Family& scatter_family() {
  static const ScatterFamily family;
  return family;
}

}  // namespace rarefy::gpu
