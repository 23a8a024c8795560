// The gather family: lists of nonzeros on tensor cores, for few tokens, and at 99 % zeros for many.
#include <fmt/format.h>

#include "base/check.h"
#include "cuda/device_text.h"
#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/spmm/cuda/expanded.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/few_tokens.h"
#include "ops/spmm/cuda/gather/gather_pack.h"
#include "ops/spmm/cuda/source_list.h"

namespace rarefy::gpu {
namespace {

/// Below it, zeros that bridge steps which are too long take more bytes than columns save: 14 % of
/// the steps at 2.5 %, 8 % of those of 11 bits at 0.25 %.
double least_density(const GatherConfig& config) {
  return config.delta == 7 ? 0.025 : config.delta > 0 ? 0.0025 : 0;
}

class GatherOperator final : public Operator {
 public:
  GatherOperator(const GatherConfig& config, const Problem& problem, const Weight& weight,
                 const cuda::Stream& stream)
      : config_(config), problem_(problem) {
    const auto& csr = dynamic_cast<const CsrMatrix&>(*weight.csr);
    const GatherArrays arrays = pack_gather(csr, config, default_pool());
    strips_a_block_ = arrays.strips_a_block;
    kernel_ = cuda::Kernel(stream.device(), config.source(problem), "spmm_gather");
    kernel_.allow_shared(shared_bytes());
    stream_ = cuda::upload<std::uint32_t>(stream, arrays.stream);
    warps_ = cuda::upload<GatherWarp>(stream, arrays.warps);
    strips_ = cuda::upload<GatherStrip>(stream, arrays.strips);
    places_ = cuda::upload<std::uint16_t>(stream, arrays.places);
    groups_ = cuda::upload<std::int32_t>(stream, arrays.groups);
    stream.synchronize();  // The arrays go away.
  }

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    if (o.n == 0 || problem_.m == 0) return;
    const std::int64_t tile = std::int64_t{config_.token_tiles} * 8;
    kernel_.launch(stream,
                   {.grid = {static_cast<unsigned>(config_.blocks()),
                             static_cast<unsigned>((o.n + tile - 1) / tile)},
                    .threads = static_cast<unsigned>(config_.warps * 32),
                    .shared_bytes = shared_bytes(),
                    .cluster = static_cast<unsigned>(config_.split),
                    .overlaps_previous = true},
                   stream_.address(), warps_.address(), strips_.address(), places_.address(),
                   groups_.address(), strips_a_block_, config_.groups, o.b,
                   static_cast<long long>(o.b_stride), o.c, static_cast<long long>(o.c_stride),
                   o.bias, o.residual, static_cast<long long>(o.residual_stride),
                   static_cast<int>(problem_.m), static_cast<int>(problem_.k),
                   static_cast<int>(o.n), config_.columns);
  }

  [[nodiscard]] std::size_t bytes() const override {
    return stream_.size() + warps_.size() + strips_.size() + places_.size() + groups_.size();
  }

  [[nodiscard]] std::int64_t tokens_a_pass() const override {
    return std::int64_t{config_.token_tiles} * 8;
  }
  [[nodiscard]] bool expands() const override { return true; }

  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override {
    if (problem_.m == 0 || problem_.k == 0) return;
    clear_dense(stream, problem_, dense);
    if (!expand_) expand_ = cuda::Kernel(stream.device(), config_.expand_source(), "expand_gather");
    expand_.launch(
        stream,
        {.grid = {static_cast<unsigned>(config_.blocks()), expanding_turns(config_.blocks())},
         .threads = static_cast<unsigned>(config_.warps * 32)},
        stream_.address(), warps_.address(), strips_.address(), places_.address(),
        groups_.address(), strips_a_block_, config_.groups, config_.split, config_.columns, dense,
        static_cast<long long>(problem_.k));
  }

  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    return std::unique_ptr<Operator>(new GatherOperator(*this, stream));
  }

 private:
  [[nodiscard]] std::size_t shared_bytes() const {
    return static_cast<std::size_t>(config_.shared_bytes(strips_a_block_));
  }

  GatherOperator(const GatherOperator& from, const cuda::Stream& stream)
      : config_(from.config_),
        problem_(from.problem_),
        strips_a_block_(from.strips_a_block_),
        kernel_(from.kernel_),
        expand_(from.expand_),
        stream_(cuda::copy_on_device(stream, from.stream_)),
        warps_(cuda::copy_on_device(stream, from.warps_)),
        strips_(cuda::copy_on_device(stream, from.strips_)),
        places_(cuda::copy_on_device(stream, from.places_)),
        groups_(cuda::copy_on_device(stream, from.groups_)) {}

  GatherConfig config_;
  Problem problem_;
  int strips_a_block_ = 0;
  cuda::Kernel kernel_;
  mutable cuda::Kernel expand_;  ///< Once it is needed.
  cuda::DeviceBuffer stream_, warps_, strips_, places_, groups_;
};

class GatherFamily final : public Family {
 public:
  [[nodiscard]] std::string_view name() const override { return "gather"; }

  [[nodiscard]] Support supports(const Problem& problem,
                                 const cuda::DeviceFacts& device) const override {
    if (device.major < 9) return Support::no("needs compute capability 9.0");
    if (Support support = supports_halves(problem); !support) return support;
    constexpr std::int64_t kMostTokens = std::int64_t{8} * 65535;  // The grid's second side.
    if (problem.n > kMostTokens)
      return Support::no(fmt::format("is for at most {} tokens, got {}", kMostTokens, problem.n));
    if (gather_configs(problem, device).empty())
      return Support::no(
          fmt::format("the activations of {} columns, or the sums of {} rows, do not fit in the "
                      "shared memory of a cluster",
                      problem.k, problem.m));
    return Support::yes();
  }

  [[nodiscard]] std::vector<Candidate> candidates(const Problem& problem,
                                                  const PatternStats& pattern,
                                                  const cuda::DeviceFacts& device) const override {
    const StripStats strips = strip_stats(pattern);
    std::vector<Candidate> found;
    for (const GatherConfig& config : gather_configs(problem, device)) {
      if (pattern.density() < least_density(config)) continue;
      found.push_back(
          {.name = config.name(),
           .estimate_us = estimate_us(config, problem, strips, device),
           .source = config.source(problem),
           .build = [config, problem](const Weight& weight, const cuda::Stream& stream) {
             return std::make_unique<GatherOperator>(config, problem, weight, stream);
           }});
    }
    return found;
  }

  [[nodiscard]] std::vector<cuda::Source> all_sources() const override {
    const cuda::DeviceFacts hopper = cuda::h100_facts();
    SourceList sources;
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      for (const std::int64_t n : {8, 16, 32}) {
        const Problem problem{
            .m = 4096, .k = 4096, .n = n, .weight = dtype, .activations = dtype, .output = dtype};
        for (const GatherConfig& config : gather_configs(problem, hopper)) {
          sources.add(config.source(problem), dtype);
          sources.add(config.expand_source());
        }
      }
    }
    return std::move(sources).take();
  }
};

}  // namespace

const Family& gather_family() {
  static const GatherFamily family;
  return family;
}

}  // namespace rarefy::gpu
