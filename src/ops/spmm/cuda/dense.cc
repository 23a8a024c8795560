// The dense family: cuBLASLt on the zero-filled weight, every algorithm that its heuristics propose
// a candidate. What no sparse kernel may lose to.
#include <fmt/format.h>

#include "base/check.h"
#include "ops/spmm/cuda/dense_products.h"
#include "ops/spmm/cuda/families.h"

namespace rarefy::gpu {
namespace {

/// The heuristics' first proposals: one of them has been the fastest, or within a few per cent.
constexpr int kAlways = 2;

class DenseOperator final : public Operator {
 public:
  DenseOperator(const Problem& problem, int algorithm, const Weight& weight,
                const cuda::Stream& stream)
      : DenseOperator(problem, algorithm, stream, upload_rows(stream, *weight.source)) {
    // An algorithm that is not there was not a candidate: only another n may fall back to the
    // first.
    const int algorithms = products_.prepare(stream, problem.n);
    if (algorithm >= algorithms)
      fail(ErrorKind::kUnsupported, "dense: cuBLASLt proposes {} algorithms", algorithms);
  }

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    products_.enqueue(stream, weight_.address(), o);
  }

  [[nodiscard]] std::size_t bytes() const override { return weight_.size(); }
  [[nodiscard]] std::int64_t tokens_a_pass() const override { return kAnyNumber; }

  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    auto other = std::unique_ptr<DenseOperator>(
        new DenseOperator(problem_, algorithm_, stream, cuda::copy_on_device(stream, weight_)));
    other->products_.prepare(stream, problem_.n);
    return other;
  }

 private:
  DenseOperator(const Problem& problem, int algorithm, const cuda::Stream& stream,
                cuda::DeviceBuffer weight)
      : problem_(problem),
        algorithm_(algorithm),
        weight_(std::move(weight)),
        products_(problem, algorithm, stream) {}

  Problem problem_;
  int algorithm_;
  cuda::DeviceBuffer weight_;
  DenseProducts products_;
};

class DenseFamily final : public Family {
 public:
  [[nodiscard]] std::string_view name() const override { return "dense"; }

  [[nodiscard]] Support supports(const Problem& problem,
                                 const cuda::DeviceFacts& /*device*/) const override {
    if (problem.weight != problem.activations)
      return Support::no(fmt::format("cuBLASLt needs activations of the weight's dtype {}, got {}",
                                     to_string(problem.weight), to_string(problem.activations)));
    if (const std::string& error = cuda::cublaslt_state().error; !error.empty())
      return Support::no(error);
    return Support::yes();
  }

  [[nodiscard]] std::vector<Candidate> candidates(const Problem& problem,
                                                  const PatternStats& /*pattern*/,
                                                  const cuda::DeviceFacts& device) const override {
    const double us = dense_estimate_us(problem, device);
    std::vector<Candidate> found;
    found.reserve(kMostDenseAlgorithms);
    for (int i = 0; i < kMostDenseAlgorithms; ++i) {
      // The first proposal is the likeliest.
      found.push_back({.name = fmt::format("dense.cublaslt.{}", i),
                       .estimate_us = us * (1 + 0.01 * i),
                       .always = i < kAlways,
                       .source = dense_epilogue_source(problem),
                       .build = [problem, i](const Weight& weight, const cuda::Stream& stream)
                           -> std::unique_ptr<Operator> {
                         return std::make_unique<DenseOperator>(problem, i, weight, stream);
                       }});
    }
    return found;
  }

  [[nodiscard]] std::vector<cuda::Source> all_sources() const override {
    std::vector<cuda::Source> sources;
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const Activation activation :
           {Activation::kNone, Activation::kRelu, Activation::kGelu, Activation::kSilu}) {
        sources.push_back(dense_epilogue_source(
            {.output = dtype, .activation = activation, .bias = true, .residual = true}));
      }
    }
    return sources;
  }
};

}  // namespace

const Family& dense_family() {
  static const DenseFamily family;
  return family;
}

}  // namespace rarefy::gpu
