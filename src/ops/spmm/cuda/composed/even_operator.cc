#include "ops/spmm/cuda/composed/even_operator.h"

#include "base/check.h"
#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/spmm/cuda/composed/even_pack.h"

namespace rarefy::gpu {
namespace {

class EvenOperator final : public Operator {
 public:
  EvenOperator(const ComposedConfig& config, const Problem& problem, const Weight& weight,
               const cuda::Stream& stream)
      : config_(config), problem_(problem), device_(&stream.device()) {
    const auto& csr = dynamic_cast<const CsrMatrix&>(*weight.csr);
    blocks_ = even_blocks(config, device_->facts());
    const EvenArrays arrays = pack_even(csr, {.format = {.vec = config.vec,
                                                         .index_bits = config.index_bits,
                                                         .swizzled = config.swizzled(problem)},
                                              .group = config.group,
                                              .blocks = blocks_});
    vectors_ = arrays.vectors;
    items_ = arrays.items;
    const EvenShare share{.vectors = arrays.vectors, .rows = arrays.items};
    shared_bytes_ = config.shared_bytes(problem, share);
    if (const Support support = config.holds(problem, share, device_->facts()); !support)
      fail(ErrorKind::kUnsupported, "composed: {}", support.reason);
    begin_ = cuda::upload<std::uint32_t>(stream, arrays.begin);
    target_ = cuda::upload<std::uint32_t>(stream, arrays.target);
    columns_ = cuda::upload<std::byte>(stream, arrays.columns);
    values_ = cuda::upload<std::byte>(stream, arrays.values);
    stream.synchronize();  // The arrays go away.
    kernel_ = cuda::Kernel(*device_, config.source(problem), "spmm_even");
    kernel_.allow_shared(shared_bytes_);
  }

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    const std::int64_t tiles = (o.n + config_.n_tile - 1) / config_.n_tile;
    if (problem_.m == 0 || tiles == 0) return;
    kernel_.launch(stream,
                   {.grid = {static_cast<unsigned>(blocks_), static_cast<unsigned>(tiles)},
                    .threads = static_cast<unsigned>(config_.threads),
                    .shared_bytes = shared_bytes_,
                    .overlaps_previous = device_->overlaps_kernels()},
                   begin_.address(), target_.address(), columns_.address(), values_.address(), o.b,
                   static_cast<long long>(o.b_stride), o.c, static_cast<long long>(o.c_stride),
                   o.bias, o.residual, static_cast<long long>(o.residual_stride),
                   static_cast<unsigned>(vectors_), static_cast<int>(items_),
                   static_cast<int>(problem_.k), static_cast<int>(o.n));
  }

  [[nodiscard]] std::size_t bytes() const override {
    return begin_.size() + target_.size() + columns_.size() + values_.size();
  }
  [[nodiscard]] std::int64_t tokens_a_pass() const override { return config_.n_tile; }
  [[nodiscard]] bool expands() const override { return true; }

  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override {
    if (problem_.m == 0 || problem_.k == 0) return;
    if (!expand_) expand_ = cuda::Kernel(*device_, config_.expand_source(problem_), "expand_rows");
    constexpr int kNoHeads = 0;
    expand_.launch(stream, {.grid = {static_cast<unsigned>(items_ * blocks_)}, .threads = 256},
                   begin_.address(), target_.address(), columns_.address(), values_.address(),
                   kNoHeads, kNoHeads, dense, static_cast<int>(problem_.k));
  }

  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    return std::unique_ptr<Operator>(new EvenOperator(*this, stream));
  }

 private:
  EvenOperator(const EvenOperator& from, const cuda::Stream& stream)
      : config_(from.config_),
        problem_(from.problem_),
        device_(from.device_),
        kernel_(from.kernel_),
        expand_(from.expand_),
        begin_(cuda::copy_on_device(stream, from.begin_)),
        target_(cuda::copy_on_device(stream, from.target_)),
        columns_(cuda::copy_on_device(stream, from.columns_)),
        values_(cuda::copy_on_device(stream, from.values_)),
        shared_bytes_(from.shared_bytes_),
        vectors_(from.vectors_),
        items_(from.items_),
        blocks_(from.blocks_) {}

  ComposedConfig config_;
  Problem problem_;
  const cuda::Device* device_;
  cuda::Kernel kernel_;
  mutable cuda::Kernel expand_;  ///< Once it is needed.
  cuda::DeviceBuffer begin_, target_, columns_, values_;
  std::size_t shared_bytes_ = 0;
  std::int64_t vectors_ = 0, items_ = 0;  ///< Of a block.
  int blocks_ = 0;
};

}  // namespace

std::unique_ptr<Operator> make_even_operator(const ComposedConfig& config, const Problem& problem,
                                             const Weight& weight, const cuda::Stream& stream) {
  return std::make_unique<EvenOperator>(config, problem, weight, stream);
}

}  // namespace rarefy::gpu
