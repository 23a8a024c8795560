#include "ops/spmm/cuda/structured/structured_products.h"

#include <fmt/format.h>

#include <algorithm>

#include "cuda/device_text.h"
#include "ops/spmm/cuda/dense_products.h"

namespace rarefy::gpu {
namespace {

/// Whether the library leaves work on its sums.
bool finishes(const Problem& problem) {
  return problem.activation != Activation::kNone || problem.bias;
}

bool is_aligned(cuda::abi::CUdeviceptr address) {
  return address % 16 == 0;
}

bool is_even(std::int64_t stride) {
  return stride % cuda::kStructuredTokens == 0;
}

cuda::Launch spread(const cuda::Stream& stream, std::int64_t count) {
  constexpr unsigned kThreads = 256;
  const std::int64_t blocks = (count + kThreads - 1) / kThreads;
  const std::int64_t most = std::int64_t{8} * stream.device().facts().multiprocessors;
  return {.grid = {static_cast<unsigned>(std::min(blocks, most))}, .threads = kThreads};
}

}  // namespace

cuda::Source structured_source(DType dtype) {
  return {.name = fmt::format("structured.{}", to_string(dtype)),
          .text = std::string(cuda::device_text("ops/spmm/cuda/structured/rows.cu")),
          .defines = {fmt::format("ROW_TYPE={}", cuda::device_type(dtype))}};
}

cuda::StructuredProblem structured_problem(const Problem& problem, std::int64_t n) {
  constexpr std::int64_t kStep = cuda::kStructuredTokens;
  return {.m = problem.m,
          .k = problem.k,
          .n = (n + kStep - 1) / kStep * kStep,
          .dtype = problem.weight};
}

StructuredProducts::StructuredProducts(const Problem& problem,
                                       const cuda::StructuredAlgorithm& algorithm,
                                       const cuda::Stream& stream)
    : problem_(problem),
      algorithm_(algorithm),
      home_(cuda::Stream::borrow(stream.device(), stream.handle())),
      copy_(stream.device(), structured_source(problem.output), "copy_rows") {
  if (finishes(problem))
    finish_ = cuda::Kernel(stream.device(), dense_epilogue_source(problem, problem.output),
                           "dense_epilogue");
}

std::size_t StructuredProducts::bytes() const {
  std::size_t sum = 0;
  for (const auto& [way, product] : products_)
    sum += product.matmul.workspace_bytes() + product.b.size() + product.d.size();
  return sum;
}

std::int64_t StructuredProducts::least_tokens() const {
  return std::min(structured_problem(problem_, problem_.n).n, kFewestStructuredTokens);
}

StructuredProducts::Way StructuredProducts::way_of(const Operands& o) const {
  Way way{.n = std::max(structured_problem(problem_, o.n).n, least_tokens())};
  if (way.n != o.n) return way;
  if (is_aligned(o.b) && is_even(o.b_stride)) way.b_stride = o.b_stride;
  const bool adds_in_place =
      !problem_.residual || (is_aligned(o.residual) && o.residual_stride == o.c_stride);
  if (!finishes(problem_) && adds_in_place && is_aligned(o.c) && is_even(o.c_stride))
    way.d_stride = o.c_stride;
  return way;
}

const StructuredProducts::Product& StructuredProducts::product_for(const Way& way) const {
  const auto found = products_.find(way);
  if (found != products_.end()) return found->second;
  cuda::StructuredProblem problem = structured_problem(problem_, way.n);
  problem.b_stride = way.b_stride;
  problem.d_stride = way.d_stride;
  const auto bytes = [&](std::int64_t features) {
    return static_cast<std::size_t>(features * problem.n) * size_of(problem.dtype);
  };
  Product product{.matmul = {home_, problem, algorithm_}, .b = {}, .d = {}};
  if (way.b_stride == 0) {
    product.b = cuda::DeviceBuffer(home_, bytes(problem.k));
    // What no token fills is multiplied, too.
    cuda::fill_bytes(home_, product.b.address(), 0, product.b.size());
  }
  if (way.d_stride == 0) product.d = cuda::DeviceBuffer(home_, bytes(problem.m));
  home_.synchronize();  // Other streams run it.
  return products_.emplace(way, std::move(product)).first->second;
}

void StructuredProducts::copy(const cuda::Stream& stream, cuda::abi::CUdeviceptr from,
                              std::int64_t from_stride, cuda::abi::CUdeviceptr to,
                              std::int64_t to_stride, std::int64_t rows, std::int64_t cols) const {
  copy_.launch(stream, spread(stream, rows * cols), from, static_cast<long long>(from_stride), to,
               static_cast<long long>(to_stride), static_cast<long long>(rows),
               static_cast<long long>(cols));
}

void StructuredProducts::enqueue(const cuda::Stream& stream, cuda::abi::CUdeviceptr compressed,
                                 const Operands& o) const {
  Way way = way_of(o);
  if (!products_.contains(way) && stream.recording()) {
    const std::int64_t at_once = least_tokens();
    if (o.n > at_once) {
      for (std::int64_t first = 0; first < o.n; first += at_once)
        enqueue(
            stream, compressed,
            o.part(problem_.activations, problem_.output, first, std::min(o.n - first, at_once)));
      return;
    }
    way = {.n = at_once};
  }
  const Product& product = product_for(way);
  const std::int64_t m = problem_.m;
  const std::int64_t k = problem_.k;
  cuda::abi::CUdeviceptr b = o.b;
  if (way.b_stride == 0) {
    b = product.b.address();
    copy(stream, o.b, o.b_stride, b, k, o.n, k);
  }
  const cuda::abi::CUdeviceptr sums = way.d_stride == 0 ? product.d.address() : o.c;
  cuda::abi::CUdeviceptr added = 0;
  if (problem_.residual && !finishes(problem_)) {
    added = o.residual;
    if (way.d_stride == 0) {
      added = sums;
      copy(stream, o.residual, o.residual_stride, sums, m, o.n, m);
    }
  }
  product.matmul.enqueue(stream, compressed, b, added, sums);
  if (finishes(problem_)) {
    finish_.launch(stream, spread(stream, o.n * m), sums, o.c, static_cast<long long>(o.c_stride),
                   o.bias, o.residual, static_cast<long long>(o.residual_stride),
                   static_cast<long long>(o.n), static_cast<long long>(m));
  } else if (way.d_stride == 0) {
    copy(stream, sums, m, o.c, o.c_stride, o.n, m);
  }
}

}  // namespace rarefy::gpu
