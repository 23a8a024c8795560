// Every kernel on one weight that stays in the caches: for work on a kernel's inner loop.
// `rarefy bench ops` is for everything that is to be believed: weights from memory, rivals, checks.
#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench_ops_weights.h"
#include "planner/search_space.h"
#include "rarefy/spmm.h"

namespace rarefy {
namespace {

constexpr std::int64_t kSize = 1024;

const Matrix& packed(DType dtype, const FormatSpec& format) {
  static std::map<std::pair<DType, std::string>, MatrixPtr> matrices;
  MatrixPtr& matrix = matrices[{dtype, format.name()}];
  if (matrix == nullptr) {
    const bench::BenchWeight weight =
        bench::make_weight({.m = kSize, .k = kSize, .sparsity = 0.7, .dtype = dtype});
    matrix = pack(weight.source(), format);
  }
  return *matrix;
}

void run_kernel(benchmark::State& state, const SpmmKernel* kernel, DType dtype,
                const FormatSpec& format, std::int64_t n) {
  const Matrix& matrix = packed(dtype, format);
  std::vector<float> b(static_cast<std::size_t>(n * kSize), 0.5F);
  std::vector<float> c(static_cast<std::size_t>(n * kSize));
  SpmmArgs args;
  args.b = matrix_ref(b.data(), n, kSize);
  args.c = matrix_ref(c.data(), n, kSize);
  args.precision = dtype == DType::kF32 ? Precision::kExact : Precision::kBf16;
  for (auto _ : state) {
    spmm(matrix, args, default_pool(), kernel);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(matrix.bytes()));
}

const int registered = [] {
  for (DType dtype : {DType::kBF16, DType::kF32}) {
    for (const FormatSpec& format : planning::search_formats({}, dtype)) {
      if (format.format == Format::kNm || !can_pack(format, kSize, kSize, dtype)) continue;
      for (const SpmmKernel* kernel : spmm_kernels()) {
        for (std::int64_t n : {1, 16, 128}) {
          const SpmmProblem problem{
              .m = kSize,
              .k = kSize,
              .n = n,
              .weight = dtype,
              .precision = dtype == DType::kF32 ? Precision::kExact : Precision::kBf16,
              .threads = default_pool().size()};
          if (!kernel->supports(format, problem)) continue;
          const std::string name = std::string("spmm/") + std::string(kernel->name()) + "/" +
                                   format.name() + "/" + to_string(dtype) + "/n" +
                                   std::to_string(n);
          benchmark::RegisterBenchmark(name.c_str(), run_kernel, kernel, dtype, format, n)
              ->UseRealTime()
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
  return 0;
}();

}  // namespace
}  // namespace rarefy
