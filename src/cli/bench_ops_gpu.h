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
  /// What cuBLASLt and cuBLAS took for this shape, dtype and n, if they were timed before; they do
  /// not know the pattern.
  std::vector<Row> dense_rivals;
  bool cusparse = true;
};

/// Rows as on the CPU: a kernel's format is the part of its name behind the family. Times are
/// medians of graph replays through copies that exceed the caches. Throws `Error` (kInternal) that
/// names the kernel whose answer is wrong, and kUnsupported where no kernel runs.
Result run_gpu_problem(const BenchWeight& weight, const GpuRunOptions& options,
                       const cuda::Stream& stream, Progress& progress);

/// The rows of cuBLASLt and cuBLAS in a result.
std::vector<Row> dense_rivals_of(const Result& result);

}  // namespace rarefy::bench
