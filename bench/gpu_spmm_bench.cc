// SpMM on a GPU: the kernel that the search finds, beside the best dense product of cuBLAS and
// cuBLASLt on the same zero-filled weight, and the best of cuSPARSE. One CSV row a case; the answer
// is checked first.
//
//   gpu_spmm_bench [--shapes 14336x4096,…] [--sparsity 0.5,…] [--n 1,8,…] [--dtype f16] [--only
//   name]
//                  [--measure 16] [--top 3]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "cuda/cublas.h"
#include "cuda/driver.h"
#include "cuda/memory.h"
#include "cuda/timing.h"
#include "gpu_rivals.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy {
namespace {

/// A weight whose positions survive independently with probability `density`; a function of the
/// place alone, so that any panel can be made by any thread.
class UniformWeight final : public RowSource {
 public:
  UniformWeight(std::int64_t rows, std::int64_t cols, double density, DType dtype)
      : rows_(rows),
        cols_(cols),
        dtype_(dtype),
        threshold_(static_cast<std::uint32_t>(density * 4294967295.0)) {}
  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    std::vector<float> row(static_cast<std::size_t>(cols_));
    const std::size_t row_bytes = static_cast<std::size_t>(cols_) * size_of(dtype_);
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t c = 0; c < cols_; ++c) row[static_cast<std::size_t>(c)] = value(r, c);
      convert_elements(
          row.data(), DType::kF32,
          static_cast<std::byte*>(out) + static_cast<std::size_t>(r - begin) * row_bytes, dtype_,
          row.size());
    }
  }

 private:
  [[nodiscard]] float value(std::int64_t r, std::int64_t c) const {
    std::uint64_t z = (static_cast<std::uint64_t>(r * cols_ + c) + 1) * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    z ^= z >> 31;
    if (static_cast<std::uint32_t>(z) >= threshold_) return 0.0F;
    const auto v = static_cast<float>(static_cast<std::int32_t>(z >> 48) - 32768) / 32768.0F;
    return std::copysign(std::max(std::abs(v), 0.01F), v);
  }
  std::int64_t rows_, cols_;
  DType dtype_;
  std::uint32_t threshold_;
};

struct Shape {
  std::int64_t m = 0, k = 0;
};

Shape parse_shape(const std::string& text) {
  Shape shape;
  if (std::sscanf(text.c_str(), "%ldx%ld", &shape.m, &shape.k) != 2 || shape.m < 1 || shape.k < 1)
    throw Error(ErrorKind::kInvalidArgument, "--shapes: expected MxK, got " + text);
  return shape;
}

/// The weight on the host, made once a (shape, sparsity, dtype).
struct HostWeight {
  HostWeight(const Shape& shape, double sparsity, DType dtype)
      : source(shape.m, shape.k, 1 - sparsity, dtype) {
    dense.resize(static_cast<std::size_t>(shape.m * shape.k) * size_of(dtype));
    const std::size_t row = static_cast<std::size_t>(shape.k) * size_of(dtype);
    default_pool().parallel_dynamic(shape.m, 16, [&](std::int64_t begin, std::int64_t end) {
      source.read_rows(begin, end, dense.data() + static_cast<std::size_t>(begin) * row);
    });
    view = std::make_unique<DenseSource>(
        ConstMatrixRef{dense.data(), dtype, shape.m, shape.k, shape.k});
    pattern = pattern_stats(*view);
    csr = pack(*view, format::kCsr32);
  }
  UniformWeight source;
  std::vector<std::byte> dense;
  std::unique_ptr<DenseSource> view;
  PatternStats pattern;
  MatrixPtr csr;
};

struct DenseBest {
  double us = 0;
  std::string name;
};

/// The best of both libraries, every algorithm that the heuristics offer, in both layouts.
DenseBest time_dense(const cuda::Stream& stream, const HostWeight& weight, std::int64_t n,
                     DType output) {
  const std::int64_t m = weight.source.rows();
  const std::int64_t k = weight.source.cols();
  const DType dtype = weight.source.dtype();
  const int count = cuda::rotating_copies(weight.dense.size());
  std::vector<cuda::DeviceBuffer> copies;
  copies.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) copies.push_back(cuda::upload<std::byte>(stream, weight.dense));
  const std::vector<std::byte> ones(static_cast<std::size_t>(k * n) * size_of(dtype),
                                    std::byte{60});
  const cuda::DeviceBuffer b = cuda::upload<std::byte>(stream, ones);
  const cuda::DeviceBuffer c(stream, static_cast<std::size_t>(m * n) * size_of(output));
  DenseBest best;
  const auto consider = [&](const std::string& name, const std::function<void(int)>& enqueue) {
    const cuda::Timing t = cuda::time_calls(stream, enqueue, {.copies = count, .budget_us = 20e3});
    if (best.us == 0 || t.median_us < best.us) best = {t.median_us, name};
  };
  for (const Layout layout : {Layout::kTokenMajor, Layout::kFeatureMajor}) {
    const char* where = layout == Layout::kTokenMajor ? "tokens" : "features";
    const cuda::DenseProblem problem{m, k, n, dtype, output, layout};
    if (cuda::cublaslt_state().error.empty()) {
      const cuda::DenseMatmul lt(stream, problem);
      for (int a = 0; a < lt.algorithms(); ++a) {
        consider(fmt::format("cublaslt.{}.{}", where, a), [&](int i) {
          lt.enqueue(stream, a, copies[static_cast<std::size_t>(i)].address(), b.address(),
                     c.address());
        });
      }
    }
    if (cuda::cublas_state().error.empty()) {
      const cuda::CublasMatmul blas(stream, problem);
      consider(fmt::format("cublas.{}", where), [&](int i) {
        blas.enqueue(copies[static_cast<std::size_t>(i)].address(), b.address(), c.address());
      });
    }
  }
  return best;
}

/// ‖out - dense‖ / ‖dense‖ on random activations.
double relative_error(const cuda::Stream& stream, const HostWeight& weight, const gpu::Operator& op,
                      const gpu::Problem& problem) {
  std::vector<float> x(static_cast<std::size_t>(problem.k * problem.n));
  std::uint32_t state = 12345;
  for (float& v : x) {
    state = state * 1664525 + 1013904223;
    v = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F;
  }
  std::vector<std::byte> raw(x.size() * size_of(problem.activations));
  convert_elements(x.data(), DType::kF32, raw.data(), problem.activations, x.size());
  const cuda::DeviceBuffer b = cuda::upload<std::byte>(stream, raw);
  const std::size_t count = static_cast<std::size_t>(problem.m * problem.n);
  const cuda::DeviceBuffer ours(stream, count * size_of(problem.output));
  const cuda::DeviceBuffer theirs(stream, count * size_of(problem.output));
  cuda::fill_bytes(stream, ours.address(), 0xFF, ours.size());
  const bool tokens = problem.layout == Layout::kTokenMajor;
  op.enqueue(stream, {.b = b.address(),
                      .b_stride = tokens ? problem.k : problem.n,
                      .c = ours.address(),
                      .c_stride = tokens ? problem.m : problem.n,
                      .n = problem.n});
  const cuda::DeviceBuffer a = cuda::upload<std::byte>(stream, weight.dense);
  const cuda::DenseMatmul dense(
      stream, {problem.m, problem.k, problem.n, problem.weight, problem.output, problem.layout}, 1);
  dense.enqueue(stream, 0, a.address(), b.address(), theirs.address());
  const auto floats = [&](const cuda::DeviceBuffer& buffer) {
    const std::vector<std::byte> bytes = cuda::download<std::byte>(stream, buffer);
    std::vector<float> values(count);
    convert_elements(bytes.data(), problem.output, values.data(), DType::kF32, count);
    return values;
  };
  const std::vector<float> got = floats(ours);
  const std::vector<float> expected = floats(theirs);
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double d = static_cast<double>(got[i]) - static_cast<double>(expected[i]);
    difference += d * d;
    norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::sqrt(difference / std::max(norm, 1e-30));
}

struct Options {
  std::vector<std::string> shapes{"14336x4096", "4096x14336", "28672x8192", "4096x4096"};
  std::vector<double> sparsities{0.5, 0.7, 0.9, 0.95, 0.99};
  std::vector<std::int64_t> ns{1, 8, 16, 64};
  std::string dtype = "f16", only, layout = "tokens";
  int measure = 16, top = 1;
  double cusparse_from = 0.9;  ///< Sparsity from which cuSPARSE is a rival worth its time.
};

void run_case(const Options& options, const HostWeight& weight, double sparsity, std::int64_t n,
              double dense_us, const std::string& dense_name, const cuda::Stream& stream) {
  const DType dtype = weight.source.dtype();
  const gpu::Problem problem{
      .m = weight.source.rows(),
      .k = weight.source.cols(),
      .n = n,
      .weight = dtype,
      .activations = dtype,
      .output = dtype,
      .layout = options.layout == "tokens" ? Layout::kTokenMajor : Layout::kFeatureMajor};
  const auto start = std::chrono::steady_clock::now();
  const gpu::Choice choice =
      gpu::choose({weight.view.get(), &weight.pattern, weight.csr}, problem, stream,
                  {.measure_best = options.measure,
                   .time_budget_s = 20,
                   .only = options.only,
                   .use_cache = false});
  const std::chrono::duration<double> search_s = std::chrono::steady_clock::now() - start;
  const double error = relative_error(stream, weight, *choice.op, problem);
  const char* verdict = error < (dtype == DType::kF32 ? 1e-4 : 2e-2) ? "ok" : "WRONG";
  rivals::RivalTime cusparse;
  if (sparsity >= options.cusparse_from)
    cusparse = rivals::time_cusparse(stream, dynamic_cast<const CsrMatrix&>(*weight.csr), n);
  for (int i = 0; i < options.top && i < static_cast<int>(choice.tried.size()); ++i) {
    const gpu::Tried& t = choice.tried[static_cast<std::size_t>(i)];
    if (t.measured_us == 0) break;
    const double bytes_a_us = stream.device().facts().memory_gb_per_s * 1e3;
    const double floor_us = static_cast<double>(t.bytes) / bytes_a_us;
    const double over_cusparse = cusparse.us > 0 ? cusparse.us / t.measured_us : 0;
    fmt::print(
        "{},{},{},{:.2f},{},{},{},{:.2f},{:.3f},{:.2f},{:.2f},{:.2f},{:.2f},{},{:.3f},{:.2f},"
        "{},{:.2f},{:.1e},{},{:.1f}\n",
        problem.m, problem.k, n, sparsity, to_string(dtype), options.layout, t.name, t.measured_us,
        t.noise, t.estimate_us, floor_us, static_cast<double>(t.bytes) / 1e6, dense_us, dense_name,
        dense_us / t.measured_us, cusparse.us, cusparse.name, over_cusparse, error, verdict,
        search_s.count());
  }
  std::fflush(stdout);
}

int run(const Options& options) {
  const cuda::Stream stream;
  const cuda::DeviceFacts& facts = stream.device().facts();
  fmt::print("# {}, {} multiprocessors, {:.0f} GB/s, NVRTC {}, driver {}\n", facts.name,
             facts.multiprocessors, facts.memory_gb_per_s, cuda::compiler_state().version,
             cuda::driver_state().version);
  fmt::print(
      "m,k,n,sparsity,dtype,layout,kernel,us,noise,estimate_us,floor_us,mb,dense_us,dense,"
      "over_dense,cusparse_us,cusparse,over_cusparse,error,verdict,search_s\n");
  const std::optional<DType> dtype = parse_dtype(options.dtype);
  if (!dtype) throw Error(ErrorKind::kInvalidArgument, "--dtype: " + options.dtype);
  for (const std::string& text : options.shapes) {
    const Shape shape = parse_shape(text);
    std::vector<DenseBest> dense;
    for (const double sparsity : options.sparsities) {
      const HostWeight weight(shape, sparsity, *dtype);
      if (dense
              .empty()) {  // Zeros change a dense product's time by little; once a shape is enough.
        for (const std::int64_t n : options.ns)
          dense.push_back(time_dense(stream, weight, n, *dtype));
      }
      for (std::size_t i = 0; i < options.ns.size(); ++i)
        run_case(options, weight, sparsity, options.ns[i], dense[i].us, dense[i].name, stream);
    }
  }
  return 0;
}

}  // namespace
}  // namespace rarefy

int main(int argc, char** argv) {
  CLI::App app{"SpMM kernels on a GPU against dense products"};
  rarefy::Options options;
  app.add_option("--shapes", options.shapes, "MxK, separated by commas")->delimiter(',');
  app.add_option("--sparsity", options.sparsities, "Shares of zeros")->delimiter(',');
  app.add_option("--n", options.ns, "Columns of B")->delimiter(',');
  app.add_option("--dtype", options.dtype, "f16, bf16 or f32");
  app.add_option("--layout", options.layout, "tokens or features");
  app.add_option("--only", options.only, "Candidates whose name starts with this");
  app.add_option("--measure", options.measure, "Candidates to measure");
  app.add_option("--cusparse-from", options.cusparse_from,
                 "Sparsity from which cuSPARSE runs, too");
  app.add_option("--top", options.top, "Rows a case: the best kernels");
  CLI11_PARSE(app, argc, argv);
  try {
    return rarefy::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
