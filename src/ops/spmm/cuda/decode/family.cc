// The decode family: bitmap weights for tensor cores, few tokens.
#include <fmt/format.h>

#include "base/check.h"
#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "cuda/tensor_map.h"
#include "ops/spmm/cuda/decode/lane_pack.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/few_tokens.h"
#include "ops/spmm/cuda/source_list.h"

namespace rarefy::gpu {
namespace {

class LaneOperator final : public Operator {
 public:
  LaneOperator(const LaneConfig& config, const Problem& problem, const Weight& weight,
               const cuda::Stream& stream)
      : config_(config), problem_(problem) {
    const auto& csr = dynamic_cast<const CsrMatrix&>(*weight.csr);
    const LaneArrays arrays = pack_lane(csr, config, default_pool());
    ring_rows_ = arrays.ring_rows;
    const cuda::Device& device = stream.device();
    const std::int64_t shared = config.shared_bytes(ring_rows_);
    if (shared > static_cast<std::int64_t>(device.facts().shared_per_block))
      fail(ErrorKind::kUnsupported,
           "{}: needs {} bytes of shared memory for rings of {} rows, a block has {}",
           config.name(), shared, ring_rows_, device.facts().shared_per_block);
    kernel_ = cuda::Kernel(device, config.source(problem), config.kernel());
    kernel_.allow_shared(static_cast<std::size_t>(shared));
    stream_ = cuda::upload<std::byte>(stream, arrays.stream);
    works_ = cuda::upload<LaneWork>(stream, arrays.works);
    strip_rows_ = cuda::upload<std::int32_t>(stream, arrays.strip_rows);
    stream.synchronize();  // The arrays go away.
  }

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    if (o.n == 0 || problem_.m == 0) return;
    const std::int64_t tile = std::int64_t{config_.token_tiles} * 8;
    const cuda::Launch launch{
        .grid = {static_cast<unsigned>(config_.row_tiles * config_.split),
                 static_cast<unsigned>((o.n + tile - 1) / tile)},
        .threads = static_cast<unsigned>(config_.warps() * 32),
        .shared_bytes = static_cast<std::size_t>(config_.shared_bytes(ring_rows_)),
        .cluster = static_cast<unsigned>(config_.split),
        .overlaps_previous = true};
    const auto run = [&](const auto&... more) {
      kernel_.launch(stream, launch, stream_.address(), works_.address(), strip_rows_.address(),
                     o.b, static_cast<long long>(o.b_stride), o.c,
                     static_cast<long long>(o.c_stride), o.bias, o.residual,
                     static_cast<long long>(o.residual_stride), static_cast<int>(problem_.m),
                     static_cast<int>(problem_.k), static_cast<int>(o.n), ring_rows_,
                     static_cast<int>(config_.region_bytes(ring_rows_)), more...);
    };
    if (!config_.wide) {
      run();
      return;
    }
    const cuda::TensorRows activations{o.b, o.n, problem_.k, o.b_stride};
    const bool can_map = cuda::can_map(activations);
    run(can_map ? cuda::map_rows(activations, config_.tokens(), 16 * config_.blocks)
                : cuda::TensorMap{},
        can_map ? 1 : 0);
  }

  [[nodiscard]] std::size_t bytes() const override {
    return stream_.size() + works_.size() + strip_rows_.size();
  }

  [[nodiscard]] std::int64_t tokens_a_pass() const override {
    return std::int64_t{config_.token_tiles} * 8;
  }
  [[nodiscard]] bool expands() const override { return true; }

  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override {
    if (problem_.m == 0) return;
    if (!expand_) {
      expand_ = cuda::Kernel(stream.device(), config_.expand_source(ring_rows_), "expand_lane");
      expand_.allow_shared(config_.expand_shared_bytes(ring_rows_));
    }
    const int streams = config_.row_tiles * config_.split * config_.warps();
    constexpr int kWarps = LaneConfig::kExpandWarps;
    expand_.launch(stream,
                   {.grid = {static_cast<unsigned>((streams + kWarps - 1) / kWarps)},
                    .threads = kWarps * 32,
                    .shared_bytes = config_.expand_shared_bytes(ring_rows_)},
                   stream_.address(), works_.address(), strip_rows_.address(), dense, streams,
                   static_cast<int>(problem_.m), static_cast<int>(problem_.k));
  }

  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    return std::unique_ptr<Operator>(new LaneOperator(*this, stream));
  }

 private:
  LaneOperator(const LaneOperator& from, const cuda::Stream& stream)
      : config_(from.config_),
        problem_(from.problem_),
        kernel_(from.kernel_),
        expand_(from.expand_),
        stream_(cuda::copy_on_device(stream, from.stream_)),
        works_(cuda::copy_on_device(stream, from.works_)),
        strip_rows_(cuda::copy_on_device(stream, from.strip_rows_)),
        ring_rows_(from.ring_rows_) {}

  LaneConfig config_;
  Problem problem_;
  cuda::Kernel kernel_;
  mutable cuda::Kernel expand_;  ///< Once it is needed.
  cuda::DeviceBuffer stream_, works_, strip_rows_;
  int ring_rows_ = 0;
};

/// Of both kernels.
std::vector<LaneConfig> configs(const Problem& problem, double density,
                                const cuda::DeviceFacts& device) {
  std::vector<LaneConfig> found = lane_configs(problem, density, device);
  if (problem.n > 8 && device.major == 9) {
    const std::vector<LaneConfig> wide = wide_configs(problem, density, device);
    found.insert(found.end(), wide.begin(), wide.end());
  }
  return found;
}

class DecodeFamily final : public Family {
 public:
  [[nodiscard]] std::string_view name() const override { return "decode"; }

  [[nodiscard]] Support supports(const Problem& problem,
                                 const cuda::DeviceFacts& device) const override {
    if (device.major < 9) return Support::no("needs compute capability 9.0");
    return supports_few_tokens(problem);
  }

  [[nodiscard]] std::vector<Candidate> candidates(const Problem& problem,
                                                  const PatternStats& pattern,
                                                  const cuda::DeviceFacts& device) const override {
    const double density = pattern.density();
    std::vector<Candidate> found;
    for (const LaneConfig& config : configs(problem, density, device)) {
      found.push_back(
          {.name = config.name(),
           .estimate_us = estimate_us(config, problem, density, device),
           .source = config.source(problem),
           .build = [config, problem](const Weight& weight, const cuda::Stream& stream) {
             return std::make_unique<LaneOperator>(config, problem, weight, stream);
           }});
    }
    return found;
  }

  [[nodiscard]] std::vector<cuda::Source> all_sources() const override {
    const cuda::DeviceFacts hopper = cuda::h100_facts();
    SourceList sources;
    // What weights of models' layers get: how many strips a warp has follows from M.
    const auto add = [&](DType dtype, std::int64_t m, std::int64_t n) {
      const Problem problem{
          .m = m, .k = 4096, .n = n, .weight = dtype, .activations = dtype, .output = dtype};
      constexpr double kDensity = 0.3;
      for (const LaneConfig& config : configs(problem, kDensity, hopper)) {
        sources.add(config.source(problem), dtype);
        sources.add(config.expand_source(config.expected_ring_rows(kDensity)));
      }
    };
    for (const std::int64_t m : {4096, 14336}) {
      for (const std::int64_t n : {8, 16, 32, 64, 128}) add(DType::kF16, m, n);
    }
    add(DType::kBF16, 4096, 16);
    return std::move(sources).take();
  }
};

}  // namespace

const Family& decode_family() {
  static const DecodeFamily family;
  return family;
}

}  // namespace rarefy::gpu
