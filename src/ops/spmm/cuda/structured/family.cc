// The structured family: weights that are 2:4, on sparse tensor cores, through cuSPARSELt where it
// is installed. Each of its algorithms is a candidate.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <utility>

#include "base/check.h"
#include "cuda/cusparselt.h"
#include "ops/spmm/cuda/dense_products.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/source_list.h"
#include "ops/spmm/cuda/structured/structured_products.h"
#include "ops/spmm/cuda/structured/two_of_four.h"

namespace rarefy::gpu {
namespace {

constexpr const char* kName = "structured.2of4.cusparselt";

/// What the candidates of one problem find out once.
class PatternCheck {
 public:
  /// Why the weight is not taken; empty when it is.
  std::string operator()(const Weight& weight) {
    if (checked_ == nullptr || checked_ != weight.csr) {
      const std::optional<std::string> broken = breaks_two_of_four(*weight.source);
      reason_ = broken ? fmt::format("2:4: {}, expected at most 2", *broken) : "";
      checked_ = weight.csr;  // Kept, so that no other weight can come to lie where it does.
    }
    return reason_;
  }

 private:
  MatrixPtr checked_;
  std::string reason_;
};

class StructuredOperator final : public Operator {
 public:
  StructuredOperator(const Problem& problem, const cuda::StructuredAlgorithm& algorithm,
                     const Weight& weight, const cuda::Stream& stream)
      : StructuredOperator(problem, algorithm, stream, compress(problem, *weight.source, stream)) {
    try_out(stream);
  }

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    products_.enqueue(stream, weight_.address(), o);
  }

  [[nodiscard]] std::size_t bytes() const override { return weight_.size() + products_.bytes(); }
  [[nodiscard]] std::int64_t tokens_a_pass() const override { return kAnyNumber; }

  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    auto other = std::unique_ptr<StructuredOperator>(new StructuredOperator(
        problem_, algorithm_, stream, cuda::copy_on_device(stream, weight_)));
    other->try_out(stream);
    return other;
  }

 private:
  StructuredOperator(const Problem& problem, const cuda::StructuredAlgorithm& algorithm,
                     const cuda::Stream& stream, cuda::DeviceBuffer weight)
      : problem_(problem),
        algorithm_(algorithm),
        weight_(std::move(weight)),
        products_(problem, algorithm, stream) {}

  static cuda::DeviceBuffer compress(const Problem& problem, const RowSource& source,
                                     const cuda::Stream& stream) {
    const cuda::DeviceBuffer dense = upload_rows(stream, source);
    return cuda::compress_structured(stream, structured_problem(problem, problem.n),
                                     dense.address());
  }

  /// Runs the problem's tokens once, and the few that graphs of other numbers are made of: the
  /// library loads a kernel with its first run and refuses some only then, and neither may happen
  /// while a graph is recorded.
  void try_out(const cuda::Stream& stream) const {
    const auto elements = [&](std::int64_t count, DType dtype) {
      return cuda::DeviceBuffer(stream, static_cast<std::size_t>(count) * size_of(dtype));
    };
    const cuda::DeviceBuffer b = elements(problem_.n * problem_.k, problem_.activations);
    const cuda::DeviceBuffer c = elements(problem_.n * problem_.m, problem_.output);
    const cuda::DeviceBuffer bias = elements(problem_.m, DType::kF32);
    for (const std::int64_t n : {problem_.n, std::int64_t{1}})
      enqueue(stream, {.b = b.address(),
                       .b_stride = problem_.k,
                       .c = c.address(),
                       .c_stride = problem_.m,
                       .bias = bias.address(),
                       .residual = problem_.residual ? c.address() : 0,
                       .residual_stride = problem_.m,
                       .n = n});
    stream.synchronize();
  }

  Problem problem_;
  cuda::StructuredAlgorithm algorithm_;
  cuda::DeviceBuffer weight_;
  StructuredProducts products_;
};

/// Half the bytes and the arithmetic of the dense product, and two bits for a nonzero's place.
double estimate_us(const Problem& problem, const cuda::DeviceFacts& device) {
  constexpr double kWithPlaces = 1.125;
  Problem half = problem;
  half.k /= 2;
  return kWithPlaces * dense_estimate_us(half, device);
}

/// Ways of cutting K for one algorithm that keep the same bits every time, where the problem asks
/// for that.
std::vector<std::pair<std::string, int>> splits_of(const Problem& problem,
                                                   const cuda::DeviceFacts& device) {
  if (device.major < 9) return {{".k2", 2}, {".k4", 4}};
  if (device.major == 9 && problem.any_order)
    return {{".segments", cuda::StructuredAlgorithm::kSegments}};
  return {};
}

class StructuredFamily final : public Family {
 public:
  [[nodiscard]] std::string_view name() const override { return "structured"; }

  [[nodiscard]] Support supports(const Problem& problem,
                                 const cuda::DeviceFacts& device) const override {
    if (problem.weight != DType::kF16 && problem.weight != DType::kBF16)
      return Support::no(fmt::format("expected f16 or bf16, got {}", to_string(problem.weight)));
    if (problem.activations != problem.weight || problem.output != problem.weight)
      return Support::no(fmt::format("expected activations and results of {}, got {} and {}",
                                     to_string(problem.weight), to_string(problem.activations),
                                     to_string(problem.output)));
    if (problem.layout != Layout::kTokenMajor)
      return Support::no("takes activations token after token only");
    constexpr std::int64_t kStep = cuda::kStructuredMultiple;
    if (problem.m <= 0 || problem.k <= 0 || problem.m % kStep != 0 || problem.k % kStep != 0)
      return Support::no(fmt::format("expected rows and columns in multiples of {}, got {}x{}",
                                     kStep, problem.m, problem.k));
    if (problem.m < kSmallestStructured || problem.k < kSmallestStructured ||
        problem.n < kFewestStructuredTokens)
      return Support::no(fmt::format(
          "expected at least {} rows, {} columns and {} tokens, got {}, {} and {}: with fewer "
          "cuSPARSELt is no faster than dense, and some of its kernels hang",
          kSmallestStructured, kSmallestStructured, kFewestStructuredTokens, problem.m, problem.k,
          problem.n));
    if (device.major < 8)
      return Support::no(fmt::format("sparse tensor cores need compute capability 8.0, found {}.{}",
                                     device.major, device.minor));
    if (const std::string& error = cuda::cusparselt_state().error; !error.empty())
      return Support::no(error);
    return Support::yes();
  }

  [[nodiscard]] std::vector<Candidate> candidates(const Problem& problem,
                                                  const PatternStats& /*pattern*/,
                                                  const cuda::DeviceFacts& device) const override {
    int count = 1;
    try {
      count = cuda::StructuredMatmul::algorithms(cuda::Device::get(device.index),
                                                 structured_problem(problem, problem.n));
    } catch (const Error&) {
      count = 1;  // Building it says why.
    }
    const double us = estimate_us(problem, device);
    const auto check = std::make_shared<PatternCheck>();
    const auto candidate = [&problem, us, check](int id, const std::string& suffix, int split) {
      return Candidate{
          .name = fmt::format("{}.{}{}", kName, id, suffix),
          .estimate_us = us * (1 + 0.01 * id),
          .always = id == 0 && split == 1,
          .source = structured_source(problem.output),
          .refuses = [check](const Weight& weight) { return (*check)(weight); },
          .build = [problem, check, id, split](const Weight& weight, const cuda::Stream& stream)
              -> std::unique_ptr<Operator> {
            if (const std::string reason = (*check)(weight); !reason.empty())
              fail(ErrorKind::kUnsupported, "{}", reason);
            return std::make_unique<StructuredOperator>(
                problem, cuda::StructuredAlgorithm{.id = id, .split = split}, weight, stream);
          },
          .refine = {}};
    };
    std::vector<Candidate> found;
    found.reserve(static_cast<std::size_t>(count));
    for (int id = 0; id < count; ++id) {
      found.push_back(candidate(id, "", 1));
      std::vector<Candidate> variations;
      for (const auto& [suffix, split] : splits_of(problem, device))
        variations.push_back(candidate(id, suffix, split));
      if (!variations.empty())
        found.back().refine = [variations = std::move(variations)] { return variations; };
    }
    return found;
  }

  [[nodiscard]] std::vector<cuda::Source> all_sources() const override {
    SourceList sources;
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      sources.add(structured_source(dtype));
      for (const Activation activation :
           {Activation::kNone, Activation::kRelu, Activation::kGelu, Activation::kSilu}) {
        sources.add(dense_epilogue_source(
            {.output = dtype, .activation = activation, .bias = true, .residual = true}, dtype));
      }
    }
    return std::move(sources).take();
  }
};

}  // namespace

const Family& structured_family() {
  static const StructuredFamily family;
  return family;
}

}  // namespace rarefy::gpu
