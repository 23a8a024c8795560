// cuSPARSE, opened at run time: the sparse rival of every GPU benchmark.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/stream.h"
#include "formats/csr.h"

namespace rarefy::rivals {

struct RivalTime {
  double us = 0;     ///< 0: could not be run.
  std::string name;  ///< "spmv.alg2", or why not.
};

/// The fastest of cuSPARSE's CSR algorithms, both orders of B and C, for C = A·B with `n` columns:
/// SpMV where n is 1, else SpMM; preprocessed, sums in f32. `csr` has 32-bit columns.
RivalTime time_cusparse(const cuda::Stream& stream, const CsrMatrix& csr, std::int64_t n);

}  // namespace rarefy::rivals
