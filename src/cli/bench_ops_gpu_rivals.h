// The rivals on a GPU: cuBLASLt, cuBLAS and cuSPARSE, opened at run time.
#pragma once

#include <string>

#include "cli/bench_ops_gpu_case.h"
#include "cli/bench_ops_methods.h"

namespace rarefy::bench {

/// The best that a library can do for a problem, over its algorithms and both layouts of B and C.
struct RivalTime {
  std::string name;  ///< "cublaslt.tokens.3", "cusparse.spmm.alg3.features".
  double us = 0;     ///< 0: could not be run; `reason` says why.
  double least_us = 0, most_us = 0;
  double error = 0;  ///< GpuCase::error
  std::size_t bytes = 0;
  std::string reason;
};

/// Every algorithm that cuBLASLt's heuristics propose, on the zero-filled weight.
RivalTime time_cublaslt(const GpuCase& problem);
/// cublasGemmEx, which chooses by itself.
RivalTime time_cublas(const GpuCase& problem);
/// cuSPARSE's CSR algorithms, preprocessed, sums in f32: SpMV for one column, else SpMM.
RivalTime time_cusparse(const GpuCase& problem);

}  // namespace rarefy::bench
