// The entry: checks everything once, brings feature-major operands into token-major order, runs a
// kernel.
#include <algorithm>

#include "base/check.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/scratch.h"
#include "ops/spmm/transpose.h"

namespace rarefy {
namespace {

struct Extent {
  std::int64_t rows, cols;
};

void check_operand(const char* name, const ConstMatrixRef& x, Extent expected) {
  require(x.rows == expected.rows && x.cols == expected.cols, "spmm: {}: expected {}x{}, got {}x{}",
          name, expected.rows, expected.cols, x.rows, x.cols);
  require(x.row_stride >= x.cols, "spmm: {}: expected a row stride of at least {}, got {}", name,
          x.cols, x.row_stride);
  require(x.data != nullptr || x.rows * x.cols == 0, "spmm: {}: data is null", name);
  require(is_compute_dtype(x.dtype), "spmm: {}: expected f32, f16 or bf16, got {}", name,
          to_string(x.dtype));
}

/// The bytes from a matrix' first element to past its last.
std::pair<const std::byte*, const std::byte*> byte_range(const ConstMatrixRef& x) {
  const auto* begin = static_cast<const std::byte*>(x.data);
  if (x.rows == 0 || x.cols == 0) return {begin, begin};
  const std::int64_t elements = (x.rows - 1) * x.row_stride + x.cols;
  return {begin, begin + static_cast<std::size_t>(elements) * size_of(x.dtype)};
}

SpmmProblem check(const Matrix& a, const SpmmArgs& args, const ThreadPool& pool) {
  const std::int64_t m = a.rows();
  const std::int64_t k = a.cols();
  const bool token_major = args.layout == Layout::kTokenMajor;
  const std::int64_t n = token_major ? args.b.rows : args.b.cols;
  const auto extent = [&](std::int64_t features) {
    return token_major ? Extent{n, features} : Extent{features, n};
  };
  check_operand("b", args.b, extent(k));
  check_operand("c", args.c, extent(m));
  if (args.residual.data != nullptr) {
    check_operand("residual", args.residual, extent(m));
    require(args.residual.dtype == args.c.dtype, "spmm: residual: expected c's dtype {}, got {}",
            to_string(args.c.dtype), to_string(args.residual.dtype));
  }
  const auto [b_begin, b_end] = byte_range(args.b);
  const auto [c_begin, c_end] = byte_range(args.c);
  require(b_end <= c_begin || c_end <= b_begin || b_begin == b_end || c_begin == c_end,
          "spmm: c: expected memory that does not overlap b");
  return {.m = m,
          .k = k,
          .n = n,
          .weight = a.dtype(),
          .activations = args.b.dtype,
          .output = args.c.dtype,
          .precision = args.precision,
          .threads = pool.size()};
}

void run_feature_major(const Matrix& a, const SpmmArgs& args, std::int64_t n, ThreadPool& pool,
                       const SpmmKernel& kernel) {
  const std::int64_t m = a.rows();
  const std::int64_t k = a.cols();
  const auto bytes = [n](std::int64_t features, DType dtype) {
    return static_cast<std::size_t>(n * features) * size_of(dtype);
  };
  const DType out = args.c.dtype;
  Scratch b(bytes(k, args.b.dtype));
  Scratch c(bytes(m, out));
  SpmmArgs turned = args;
  turned.layout = Layout::kTokenMajor;
  const MatrixRef b_turned{b.as<void>(), args.b.dtype, n, k, k};
  transpose(args.b, b_turned, pool);
  turned.b = b_turned;
  turned.c = {c.as<void>(), out, n, m, m};
  if (args.residual.data != nullptr) {  // C itself holds it, as kernels allow.
    transpose(args.residual, turned.c, pool);
    turned.residual = turned.c;
  }
  kernel.run(a, turned, pool);
  transpose(turned.c, args.c, pool);
}

/// K = 0: there is nothing to multiply, but bias, activation and residual still apply. A 1-column
/// weight of zeros gives the kernels something to chew on.
void run_without_weights(const SpmmArgs& args, std::int64_t m, std::int64_t n, ThreadPool& pool) {
  std::vector<float> weight(static_cast<std::size_t>(m));
  const std::vector<float> b(static_cast<std::size_t>(n));
  const MatrixPtr zeros = borrow_dense({weight.data(), DType::kF32, m, 1, 1}, nullptr, pool);
  SpmmArgs padded = args;
  const bool token_major = args.layout == Layout::kTokenMajor;
  padded.b = matrix_ref(b.data(), token_major ? n : 1, token_major ? 1 : n);
  spmm(*zeros, padded, pool);
}

}  // namespace

const char* to_string(Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return "none";
    case Activation::kRelu:
      return "relu";
    case Activation::kGelu:
      return "gelu";
    case Activation::kSilu:
      return "silu";
  }
  return "unknown";
}

void spmm(const Matrix& a, const SpmmArgs& args, ThreadPool& pool, const SpmmKernel* kernel) {
  const SpmmProblem problem = check(a, args, pool);
  if (kernel != nullptr) {
    const Support support = kernel->supports(a.spec(), problem);
    if (!support) {
      fail(ErrorKind::kUnsupported, "spmm: kernel {} cannot run {} {} {}x{}: {}", kernel->name(),
           a.spec().name(), to_string(a.dtype()), problem.m, problem.k, support.reason);
    }
  }
  if (problem.m == 0 || problem.n == 0) return;
  if (problem.k == 0) return run_without_weights(args, problem.m, problem.n, pool);
  const SpmmKernel& chosen = kernel != nullptr ? *kernel : default_spmm_kernel(a, problem);
  if (args.layout == Layout::kFeatureMajor)
    return run_feature_major(a, args, problem.n, pool, chosen);
  chosen.run(a, args, pool);
}

}  // namespace rarefy
