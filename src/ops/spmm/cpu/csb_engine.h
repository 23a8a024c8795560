// What the kernels on compressed sparse blocks share with their ISA files: plain data only.
#pragma once

#include <cstdint>

#include "formats/csb.h"

namespace rarefy::csb {

/// One block times one panel of tokens: sums[row] += Σ value · panel[column] for each visit.
struct Job {
  const CsbMatrix::Visit* visits;  ///< Sorted by count.
  std::int64_t visit_count;
  const std::uint8_t* columns;  ///< Of the first visit, and so on.
  const void* values;
  const float* panel;  ///< Column c of the block at panel + c·16·vectors
  float* sums;         ///< 16·vectors floats a row
};

inline constexpr int kMostVectors = 4;

/// vectors: 1, 2 or 4.
using Run = void(const Job& job, int vectors, DType dtype);

Run run_avx512, run_avx2, run_portable;

}  // namespace rarefy::csb
