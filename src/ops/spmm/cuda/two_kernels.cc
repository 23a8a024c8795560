#include "ops/spmm/cuda/two_kernels.h"

#include <algorithm>
#include <utility>

namespace rarefy::gpu {
namespace {

class TwoKernels final : public Operator {
 public:
  TwoKernels(DType activations, DType output, std::unique_ptr<Operator> few,
             std::unique_ptr<Operator> many, std::int64_t from)
      : activations_(activations),
        output_(output),
        few_(std::move(few)),
        many_(std::move(many)),
        from_(from) {}

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    if (o.n >= from_) return many_->enqueue(stream, o);
    for (std::int64_t first = 0; first < o.n; first += kTokensAtOnce)
      few_->enqueue(stream,
                    o.part(activations_, output_, first, std::min(o.n - first, kTokensAtOnce)));
  }
  [[nodiscard]] std::size_t bytes() const override { return few_->bytes() + many_->bytes(); }
  [[nodiscard]] std::int64_t tokens_a_pass() const override { return kAnyNumber; }
  [[nodiscard]] bool expands() const override { return many_->expands() || few_->expands(); }
  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override {
    (many_->expands() ? *many_ : *few_).expand(stream, dense);
  }
  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    return std::make_unique<TwoKernels>(activations_, output_, few_->copy(stream),
                                        many_->copy(stream), from_);
  }

 private:
  DType activations_, output_;
  std::unique_ptr<Operator> few_, many_;
  std::int64_t from_;
};

}  // namespace

Operands Operands::part(DType activations, DType output, std::int64_t first,
                        std::int64_t count) const {
  const auto at = [&](cuda::abi::CUdeviceptr address, std::int64_t stride, DType dtype) {
    return address == 0 ? 0 : address + static_cast<std::uint64_t>(first * stride) * size_of(dtype);
  };
  Operands some = *this;
  some.b = at(b, b_stride, activations);
  some.c = at(c, c_stride, output);
  some.residual = at(residual, residual_stride, output);
  some.n = count;
  return some;
}

std::unique_ptr<Operator> two_kernels(const Problem& problem, std::unique_ptr<Operator> few,
                                      std::unique_ptr<Operator> many, std::int64_t from) {
  return std::make_unique<TwoKernels>(problem.activations, problem.output, std::move(few),
                                      std::move(many), from);
}

}  // namespace rarefy::gpu
