// The dense family: cuBLASLt on the zero-filled weight, every algorithm that its heuristics propose
// a candidate. What no sparse kernel may lose to.
#include <fmt/format.h>

#include <map>

#include "base/check.h"
#include "cuda/cublas.h"
#include "cuda/device_text.h"
#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/spmm/cuda/epilogue.h"
#include "ops/spmm/cuda/families.h"

namespace rarefy::gpu {
namespace {

constexpr int kMostAlgorithms = 8;
/// The heuristics' first proposals: one of them has been the fastest, or within a few per cent.
constexpr int kAlways = 2;

bool has_epilogue(const Problem& problem) {
  return problem.activation != Activation::kNone || problem.bias || problem.residual;
}

cuda::DenseProblem dense_problem(const Problem& problem, std::int64_t n) {
  // With an epilogue to follow, sums stay in f32.
  return {.m = problem.m,
          .k = problem.k,
          .n = n,
          .weight = problem.weight,
          .output = has_epilogue(problem) ? DType::kF32 : problem.output,
          .layout = problem.layout};
}

cuda::Source epilogue_source(const Problem& problem) {
  cuda::Source source{.name = fmt::format("dense.epilogue.{}", to_string(problem.output)),
                      .text = std::string(cuda::device_text("ops/spmm/cuda/dense_epilogue.cu")),
                      .defines = epilogue_defines(problem)};
  source.name += epilogue_name(problem);
  source.defines.push_back(fmt::format("C_TYPE={}", device_type(problem.output)));
  return source;
}

class DenseOperator final : public Operator {
 public:
  DenseOperator(const Problem& problem, int algorithm, const Weight& weight,
                const cuda::Stream& stream)
      : problem_(problem), algorithm_(algorithm) {
    std::vector<std::byte> dense(static_cast<std::size_t>(problem.m * problem.k) *
                                 size_of(problem.weight));
    weight.source->read_rows(0, problem.m, dense.data());
    weight_ = cuda::upload<std::byte>(stream, dense);
    stream.synchronize();
    if (has_epilogue(problem))
      epilogue_ = cuda::Kernel(stream.device(), epilogue_source(problem), "dense_epilogue");
    (void)product_for(stream, problem.n);
  }

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    const bool tokens = problem_.layout == Layout::kTokenMajor;
    require(o.b_stride == (tokens ? problem_.k : o.n), "dense: b: expected no gaps between rows");
    const std::int64_t rows = tokens ? o.n : problem_.m;
    const std::int64_t cols = tokens ? problem_.m : o.n;
    const Product& product = product_for(stream, o.n);
    if (!epilogue_) {
      require(o.c_stride == cols, "dense: c: expected no gaps between rows");
      product.matmul.enqueue(stream, product.algorithm, weight_.address(), o.b, o.c);
      return;
    }
    product.matmul.enqueue(stream, product.algorithm, weight_.address(), o.b,
                           product.sums.address());
    constexpr unsigned kThreads = 256;
    const std::int64_t blocks = (rows * cols + kThreads - 1) / kThreads;
    const std::int64_t most = std::int64_t{8} * stream.device().facts().multiprocessors;
    epilogue_.launch(stream,
                     {.grid = {static_cast<unsigned>(std::min(blocks, most))}, .threads = kThreads},
                     product.sums.address(), o.c, static_cast<long long>(o.c_stride), o.bias,
                     o.residual, static_cast<long long>(o.residual_stride),
                     static_cast<long long>(rows), static_cast<long long>(cols));
  }

  [[nodiscard]] std::size_t bytes() const override { return weight_.size(); }

  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    auto other = std::unique_ptr<DenseOperator>(new DenseOperator(problem_, algorithm_));
    other->weight_ = cuda::DeviceBuffer(stream, weight_.size());
    cuda::copy_on_device(stream, other->weight_.address(), weight_.address(), weight_.size());
    other->epilogue_ = epilogue_;
    (void)other->product_for(stream, problem_.n);
    return other;
  }

 private:
  DenseOperator(const Problem& problem, int algorithm) : problem_(problem), algorithm_(algorithm) {}

  /// A product of n columns, with the algorithm of this operator where it has as many.
  struct Product {
    cuda::DenseMatmul matmul;
    int algorithm;
    cuda::DeviceBuffer sums;
  };

  const Product& product_for(const cuda::Stream& stream, std::int64_t n) const {
    const auto found = products_.find(n);
    if (found != products_.end()) return found->second;
    cuda::DenseMatmul matmul(stream, dense_problem(problem_, n), kMostAlgorithms);
    const int algorithm = algorithm_ < matmul.algorithms() ? algorithm_ : 0;
    // An algorithm that is not there was not a candidate: only another n may fall back to the
    // first.
    if (n == problem_.n && algorithm != algorithm_)
      fail(ErrorKind::kUnsupported, "dense: cuBLASLt proposes {} algorithms", matmul.algorithms());
    cuda::DeviceBuffer sums;
    if (has_epilogue(problem_))
      sums = cuda::DeviceBuffer(stream, static_cast<std::size_t>(problem_.m * n) * sizeof(float));
    return products_.emplace(n, Product{std::move(matmul), algorithm, std::move(sums)})
        .first->second;
  }

  Problem problem_;
  int algorithm_;
  cuda::DeviceBuffer weight_;
  cuda::Kernel epilogue_;
  mutable std::map<std::int64_t, Product> products_;
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
    // Bytes decide while columns are few, arithmetic afterwards; the first proposal is the
    // likeliest.
    const double bytes =
        static_cast<double>(problem.m * problem.k) * static_cast<double>(size_of(problem.weight));
    const double flops = 2.0 * static_cast<double>(problem.m) * static_cast<double>(problem.k) *
                         static_cast<double>(problem.n);
    constexpr double kMemoryEfficiency = 0.85;
    // Of a multiprocessor and clock: mma.sync's rate, and that of plain f32.
    const double flops_a_clock = size_of(problem.weight) == 4 ? 256 : 4096;
    const double us =
        1.5 + std::max(bytes / (device.memory_gb_per_s * kMemoryEfficiency * 1e3),
                       flops / (flops_a_clock * device.multiprocessors * device.clock_ghz * 1e3));
    std::vector<Candidate> found;
    found.reserve(kMostAlgorithms);
    for (int i = 0; i < kMostAlgorithms; ++i) {
      found.push_back({.name = fmt::format("dense.cublaslt.{}", i),
                       .estimate_us = us * (1 + 0.01 * i),
                       .always = i < kAlways,
                       .source = has_epilogue(problem) ? epilogue_source(problem) : cuda::Source{},
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
        sources.push_back(epilogue_source(
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
