#include "ops/spmm/cuda/two_kernels.h"

#include <utility>

namespace rarefy::gpu {
namespace {

class TwoKernels final : public Operator {
 public:
  TwoKernels(std::unique_ptr<Operator> few, std::unique_ptr<Operator> many, std::int64_t from)
      : few_(std::move(few)), many_(std::move(many)), from_(from) {}

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    (o.n < from_ ? *few_ : *many_).enqueue(stream, o);
  }
  [[nodiscard]] std::size_t bytes() const override { return few_->bytes() + many_->bytes(); }
  [[nodiscard]] std::int64_t tokens_a_pass() const override { return kAnyNumber; }
  [[nodiscard]] bool expands() const override { return many_->expands() || few_->expands(); }
  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override {
    (many_->expands() ? *many_ : *few_).expand(stream, dense);
  }
  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    return std::make_unique<TwoKernels>(few_->copy(stream), many_->copy(stream), from_);
  }

 private:
  std::unique_ptr<Operator> few_, many_;
  std::int64_t from_;
};

}  // namespace

std::unique_ptr<Operator> two_kernels(std::unique_ptr<Operator> few, std::unique_ptr<Operator> many,
                                      std::int64_t from) {
  return std::make_unique<TwoKernels>(std::move(few), std::move(many), from);
}

}  // namespace rarefy::gpu
