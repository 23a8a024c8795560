#include "ops/spmm/cuda/expanded.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "ops/spmm/cuda/second_form.h"

namespace rarefy::gpu {
namespace {

/// No prompt runs more tokens at once.
constexpr std::int64_t kMostTokens = 1 << 14;

/// Reached of the data sheet's bandwidth while a weight is read packed and written dense.
constexpr double kExpandEfficiency = 0.65;
constexpr double kExpandLaunchUs = 3;

double expand_us(const Operator& source, const Problem& problem, const cuda::DeviceFacts& device) {
  const auto bytes = static_cast<double>(source.bytes() + dense_bytes(problem));
  return kExpandLaunchUs + bytes / (device.memory_gb_per_s * kExpandEfficiency * 1e3);
}

}  // namespace

void clear_dense(const cuda::Stream& stream, const Problem& problem, cuda::abi::CUdeviceptr dense) {
  cuda::fill_bytes(stream, dense, 0, dense_bytes(problem));
}

unsigned expanding_turns(int blocks) {
  constexpr int kBlocks = 528, kMostTurns = 64;
  return static_cast<unsigned>(std::clamp(kBlocks / blocks, 1, kMostTurns));
}

void Operator::expand(const cuda::Stream& /*stream*/, cuda::abi::CUdeviceptr /*dense*/) const {
  fail(ErrorKind::kInternal, "spmm: this weight cannot be expanded");
}

std::optional<std::int64_t> tokens_to_expand_for(const Operator& packed, const Operator& source,
                                                 const Problem& problem, double packed_us,
                                                 const cuda::DeviceFacts& device) {
  const bool bare = problem.layout == Layout::kTokenMajor && problem.weight == problem.activations;
  if (!source.expands() || !bare || packed_us <= 0) return std::nullopt;
  const Passes passes(packed.tokens_a_pass(), problem.n, packed_us);
  const double once_us = expand_us(source, problem, device);
  return first_faster(passes.starts(kMostTokens), passes, [&](std::int64_t n) {
    Problem dense = problem;
    dense.n = n;
    return once_us + dense_estimate_us(dense, device);
  });
}

struct Expander::Shared {
  explicit Shared(const cuda::Stream& on) : stream(on) {}

  /// Dense memory for any of the weights; 0 where there is no room for it.
  cuda::abi::CUdeviceptr scratch() {
    if (dense.size() < most_bytes && !full) {
      try {
        dense = cuda::DeviceBuffer(stream, most_bytes);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kOutOfMemory) throw;
        full = true;
      }
    }
    return full ? 0 : dense.address();
  }

  using Shape = std::tuple<std::int64_t, std::int64_t, DType, DType, Activation, bool, bool>;

  const cuda::Stream& stream;
  std::map<Shape, std::shared_ptr<const DenseProducts>> products;
  cuda::DeviceBuffer dense;  ///< Made when it is first needed.
  std::size_t most_bytes = 0;
  bool full = false;
};

namespace {

class ExpandingOperator final : public Operator {
 public:
  /// Dense memory that is asked for when it is needed.
  using Scratch = std::function<cuda::abi::CUdeviceptr()>;

  ExpandingOperator(std::unique_ptr<Operator> packed, std::unique_ptr<Operator> expandable,
                    std::int64_t from, std::shared_ptr<const DenseProducts> products,
                    Scratch scratch)
      : packed_(std::move(packed)),
        expandable_(std::move(expandable)),
        from_(from),
        products_(std::move(products)),
        scratch_(std::move(scratch)) {}

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    const cuda::abi::CUdeviceptr dense = o.n >= from_ ? scratch_() : 0;
    if (dense == 0) return packed_->enqueue(stream, o);
    expand(stream, dense);
    products_->enqueue(stream, dense, o);
  }

  [[nodiscard]] std::size_t bytes() const override {
    return packed_->bytes() + (expandable_ != nullptr ? expandable_->bytes() : 0);
  }
  [[nodiscard]] std::int64_t tokens_a_pass() const override { return packed_->tokens_a_pass(); }
  [[nodiscard]] bool expands() const override { return true; }
  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override {
    (expandable_ != nullptr ? *expandable_ : *packed_).expand(stream, dense);
  }

  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    return std::make_unique<ExpandingOperator>(
        packed_->copy(stream), expandable_ != nullptr ? expandable_->copy(stream) : nullptr, from_,
        products_, scratch_);
  }

 private:
  std::unique_ptr<Operator> packed_, expandable_;
  std::int64_t from_;
  std::shared_ptr<const DenseProducts> products_;
  Scratch scratch_;
};

}  // namespace

Expander::Expander(const cuda::Stream& stream) : shared_(std::make_shared<Shared>(stream)) {}

std::unique_ptr<Operator> Expander::wrap(std::unique_ptr<Operator> packed, const Problem& problem,
                                         double packed_us, std::unique_ptr<Operator> expandable) {
  if (!cuda::cublaslt_state().error.empty()) return packed;
  const std::optional<std::int64_t> from =
      tokens_to_expand_for(*packed, expandable != nullptr ? *expandable : *packed, problem,
                           packed_us, shared_->stream.device().facts());
  if (!from) return packed;
  auto& products = shared_->products[{problem.m, problem.k, problem.weight, problem.output,
                                      problem.activation, problem.bias, problem.residual}];
  if (products == nullptr)
    products = std::make_shared<const DenseProducts>(problem, 0, shared_->stream);
  shared_->most_bytes = std::max(shared_->most_bytes, dense_bytes(problem));
  return std::make_unique<ExpandingOperator>(std::move(packed), std::move(expandable), *from,
                                             products,
                                             [shared = shared_] { return shared->scratch(); });
}

}  // namespace rarefy::gpu
