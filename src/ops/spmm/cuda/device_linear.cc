#include "ops/spmm/device_linear.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <optional>
#include <utility>

#include "base/check.h"
#include "cuda/memory.h"
#include "cuda/workshop.h"
#include "ops/spmm/cuda/converted_rows.h"
#include "ops/spmm/cuda/dense_products.h"
#include "ops/spmm/cuda/expanded.h"
#include "ops/spmm/cuda/kernel_chooser.h"
#include "ops/spmm/cuda/two_kernels.h"

namespace rarefy::gpu {
namespace {

using Packer = cuda::Workshop<KernelChooser>;

class CudaLinear final : public DeviceLinear {
 public:
  CudaLinear(const RowSource& weight, const DeviceLinearOptions& options, Packer& packer,
             ThreadPool& pool)
      : device_(&packer.device),
        problem_{.m = weight.rows(),
                 .k = weight.cols(),
                 .n = options.tokens,
                 .weight = options.dtype,
                 .activations = options.dtype,
                 .output = options.dtype} {
    const ConvertedRows source(weight, options.dtype);
    KernelChooser::Chosen chosen =
        packer.chooser.make(source, problem_, {.measure = options.measure, .two_formats_up_to = 1},
                            packer.stream, pool);
    kernel_ = std::move(chosen.kernel);
    time_us_ = chosen.time_us;
    many_from_ = chosen.many_from;
    if (kernel_.starts_with("dense")) {
      chosen.op.reset();
      dense_ = upload_rows(packer.stream, source, pool);
    } else {
      packed_ = std::move(chosen.op);
      expandable_ = std::move(chosen.expandable);
      const std::optional<std::int64_t> expand_from =
          tokens_to_expand_for(*packed_, expander(), problem_, time_us_, device_->facts());
      most_tokens_ = expand_from ? *expand_from - 1 : std::numeric_limits<std::int64_t>::max();
      try_out(packer.stream);
    }
    packer.stream.synchronize();
    device_->trim_pool();  // The rest of the memory is the caller's.
  }

  ~CudaLinear() override {
    try {
      device_->synchronize();  // Streams that ran it are not those that free its memory.
    } catch (const Error&) {
      return;  // Nobody is left to tell.
    }
  }
  CudaLinear(const CudaLinear&) = delete;
  CudaLinear& operator=(const CudaLinear&) = delete;

  [[nodiscard]] std::int64_t rows() const override { return problem_.m; }
  [[nodiscard]] std::int64_t cols() const override { return problem_.k; }
  [[nodiscard]] DType dtype() const override { return problem_.weight; }
  [[nodiscard]] const std::string& kernel() const override { return kernel_; }
  [[nodiscard]] double time_us() const override { return time_us_; }
  [[nodiscard]] std::size_t bytes() const override {
    return dense_.size() + (packed_ != nullptr ? packed_->bytes() : 0) +
           (expandable_ != nullptr ? expandable_->bytes() : 0);
  }
  [[nodiscard]] std::int64_t most_tokens() const override { return most_tokens_; }

  void run(void* handle, const DeviceRows& x, const DeviceRows& y, std::int64_t n) const override {
    require(packed_ != nullptr, "linear: {} is dense: there is no packed weight to run", kernel_);
    const cuda::Stream stream = borrow(handle);
    const Operands all{
        .b = x.address, .b_stride = x.stride, .c = y.address, .c_stride = y.stride, .n = n};
    const std::int64_t at_once =
        packed_->tokens_a_pass() == kAnyNumber ? std::max(n, kTokensAtOnce) : kTokensAtOnce;
    for (std::int64_t first = 0; first < n; first += at_once)
      packed_->enqueue(stream, all.part(problem_.activations, problem_.output, first,
                                        std::min(n - first, at_once)));
  }

  [[nodiscard]] std::uintptr_t dense() const override {
    device_->bind();  // For the caller's product: autograd's threads begin without a context.
    return dense_.address();
  }

  void expand(void* handle, std::uintptr_t dense) const override {
    const cuda::Stream stream = borrow(handle);
    if (packed_ == nullptr) {
      cuda::copy_on_device(stream, dense, dense_.address(), dense_.size());
    } else {
      expander().expand(stream, dense);
    }
  }

 private:
  [[nodiscard]] cuda::Stream borrow(void* handle) const {
    device_->bind();  // A thread that has only used cached memory has no context yet.
    return cuda::Stream::borrow(*device_, static_cast<cuda::abi::CUstream>(handle));
  }

  /// What writes the weight out.
  [[nodiscard]] const Operator& expander() const {
    return expandable_ != nullptr ? *expandable_ : *packed_;
  }

  /// Runs everything once: kernels are loaded and scratch memory is made when they are first
  /// needed, which no graph could record.
  void try_out(const cuda::Stream& stream) const {
    const std::int64_t few = many_from_ > 0 ? many_from_ - 1 : most_tokens_;
    const std::int64_t most = std::max(std::min(few, kTokensAtOnce), many_from_);
    const auto zeros = [&](std::int64_t count) {
      cuda::DeviceBuffer buffer(stream,
                                static_cast<std::size_t>(count) * size_of(problem_.activations));
      cuda::fill_bytes(stream, buffer.address(), 0, buffer.size());
      return buffer;
    };
    const cuda::DeviceBuffer x = zeros(most * problem_.k);
    const cuda::DeviceBuffer y = zeros(most * problem_.m);
    for (const std::int64_t n : {std::min(few, kTokensAtOnce), many_from_}) {
      if (n == 0) continue;
      packed_->enqueue(stream, {.b = x.address(),
                                .b_stride = problem_.k,
                                .c = y.address(),
                                .c_stride = problem_.m,
                                .n = n});
    }
    if (!expander().expands()) return;
    const cuda::DeviceBuffer dense = zeros(problem_.m * problem_.k);
    expander().expand(stream, dense.address());
  }

  const cuda::Device* device_;
  Problem problem_;
  std::string kernel_;
  double time_us_ = 0;
  std::int64_t most_tokens_ = 0;
  std::int64_t many_from_ = 0;  ///< Tokens from which another kernel runs; 0: none does.
  std::unique_ptr<Operator> packed_, expandable_;
  cuda::DeviceBuffer dense_;
};

}  // namespace
}  // namespace rarefy::gpu

namespace rarefy {

std::unique_ptr<DeviceLinear> pack_on_device(const RowSource& weight,
                                             const DeviceLinearOptions& options, ThreadPool& pool) {
  require(options.tokens > 0, "tokens: expected a positive number, got {}", options.tokens);
  gpu::Packer& packer = gpu::Packer::of(options.device);
  const std::scoped_lock lock(packer.mutex);
  packer.device.bind();
  return std::make_unique<gpu::CudaLinear>(weight, options, packer, pool);
}

}  // namespace rarefy
