// One problem on a GPU: the kernels that the search measures, beside cuBLASLt, cuBLAS and cuSPARSE.
#pragma once

#include "cli/bench_ops_run.h"
#include "cuda/stream.h"

namespace rarefy::bench {

struct GpuRunOptions {
  std::int64_t n = 1;
  DType activations = DType::kF16;  ///< Of B and C.
  Layout layout = Layout::kTokenMajor;
  int measure = 24;     ///< Kernels that are measured: the best by estimate.
  double seconds = 20;  ///< No new kernel is measured after this.
  std::string only;     ///< Kernels whose name starts with this; empty: all.
  bool dense_rivals = true, sparse_rivals = true;  ///< cuBLASLt and cuBLAS; cuSPARSE.
};

struct GpuResult : Result {
  std::vector<double> estimates_us;  ///< One a row; 0 for rivals.
  double search_s = 0;               ///< What the search took: compiling, packing, measuring.
};

/// Rows as on the CPU: a kernel's format is the part of its name behind the family. Times are
/// medians of graph replays through copies that exceed the caches. Throws `Error` (kInternal) that
/// names the kernel whose answer is wrong, and kUnsupported where no kernel runs.
GpuResult run_gpu_problem(const BenchWeight& weight, const GpuRunOptions& options,
                          const cuda::Stream& stream, Progress& progress);

}  // namespace rarefy::bench
