#include "ops/spmm/cuda/dense_products.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "cuda/device_text.h"
#include "ops/spmm/cuda/epilogue.h"

namespace rarefy::gpu {
namespace {

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

}  // namespace

cuda::DeviceBuffer upload_rows(const cuda::Stream& stream, const RowSource& source,
                               ThreadPool& pool) {
  const std::size_t row_bytes = static_cast<std::size_t>(source.cols()) * size_of(source.dtype());
  const std::size_t bytes = static_cast<std::size_t>(source.rows()) * row_bytes;
  cuda::DeviceBuffer buffer(stream, bytes);
  const void* data = source.dense_data();
  Buffer rows;
  if (data == nullptr) {
    rows = Buffer(bytes);
    pool.parallel_for(source.rows(), [&](std::int64_t begin, std::int64_t end) {
      source.read_rows(begin, end, rows.data() + static_cast<std::size_t>(begin) * row_bytes);
    });
    data = rows.data();
  }
  cuda::copy_to_device(stream, buffer.address(), data, bytes);
  stream.synchronize();
  return buffer;
}

cuda::Source dense_epilogue_source(const Problem& problem, DType sums) {
  if (!has_epilogue(problem)) return {};
  cuda::Source source{.name = fmt::format("dense.epilogue.{}{}", to_string(problem.output),
                                          sums == DType::kF32 ? "" : ".rounded"),
                      .text = std::string(cuda::device_text("ops/spmm/cuda/dense_epilogue.cu")),
                      .defines = epilogue_defines(problem)};
  source.name += epilogue_name(problem);
  source.defines.push_back(fmt::format("SUM_TYPE={}", cuda::device_type(sums)));
  source.defines.push_back(fmt::format("C_TYPE={}", cuda::device_type(problem.output)));
  return source;
}

double dense_estimate_us(const Problem& problem, const cuda::DeviceFacts& device) {
  const double bytes =
      static_cast<double>(problem.m * problem.k) * static_cast<double>(size_of(problem.weight));
  const double flops = 2.0 * static_cast<double>(problem.m) * static_cast<double>(problem.k) *
                       static_cast<double>(problem.n);
  constexpr double kMemoryEfficiency = 0.85;
  // Of a multiprocessor and clock: mma.sync's rate, and that of plain f32.
  const double flops_a_clock = size_of(problem.weight) == 4 ? 256 : 4096;
  return 1.5 + std::max(bytes / (device.memory_gb_per_s * kMemoryEfficiency * 1e3),
                        flops / (flops_a_clock * device.multiprocessors * device.clock_ghz * 1e3));
}

DenseProducts::DenseProducts(const Problem& problem, int algorithm, const cuda::Stream& stream)
    : problem_(problem), algorithm_(algorithm) {
  if (has_epilogue(problem))
    epilogue_ = cuda::Kernel(stream.device(), dense_epilogue_source(problem), "dense_epilogue");
}

int DenseProducts::prepare(const cuda::Stream& stream, std::int64_t n) const {
  return product_for(stream, n).matmul.algorithms();
}

const DenseProducts::Product& DenseProducts::product_for(const cuda::Stream& stream,
                                                         std::int64_t n) const {
  const auto found = products_.find(n);
  if (found != products_.end()) return found->second;
  cuda::DenseMatmul matmul(stream, dense_problem(problem_, n), kMostDenseAlgorithms);
  const int algorithm = algorithm_ < matmul.algorithms() ? algorithm_ : 0;
  cuda::DeviceBuffer sums;
  if (epilogue_)
    sums = cuda::DeviceBuffer(stream, static_cast<std::size_t>(problem_.m * n) * sizeof(float));
  return products_.emplace(n, Product{std::move(matmul), algorithm, std::move(sums)}).first->second;
}

void DenseProducts::enqueue(const cuda::Stream& stream, cuda::abi::CUdeviceptr weight,
                            const Operands& o) const {
  const bool tokens = problem_.layout == Layout::kTokenMajor;
  require(o.b_stride == (tokens ? problem_.k : o.n), "dense: b: expected no gaps between rows");
  const std::int64_t rows = tokens ? o.n : problem_.m;
  const std::int64_t cols = tokens ? problem_.m : o.n;
  const Product& product = product_for(stream, o.n);
  if (!epilogue_) {
    require(o.c_stride == cols, "dense: c: expected no gaps between rows");
    product.matmul.enqueue(stream, product.algorithm, weight, o.b, o.c);
    return;
  }
  product.matmul.enqueue(stream, product.algorithm, weight, o.b, product.sums.address());
  constexpr unsigned kThreads = 256;
  const std::int64_t blocks = (rows * cols + kThreads - 1) / kThreads;
  const std::int64_t most = std::int64_t{8} * stream.device().facts().multiprocessors;
  epilogue_.launch(stream,
                   {.grid = {static_cast<unsigned>(std::min(blocks, most))}, .threads = kThreads},
                   product.sums.address(), o.c, static_cast<long long>(o.c_stride), o.bias,
                   o.residual, static_cast<long long>(o.residual_stride),
                   static_cast<long long>(rows), static_cast<long long>(cols));
}

}  // namespace rarefy::gpu
