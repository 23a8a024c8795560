// Inner loops of SpMV over row lists (CSR, delta): one function an instruction set, format and
// weight dtype. The activations are gathered from L1 or L2; sums stay in f32.
#pragma once

#include <cstdint>

namespace rarefy {

/// sums[i] = Σ values · x[columns] over row `row + i`, i = 0 … rows - 1.
struct GatherJob {
  const void* columns;                ///< CSR: column indices; delta: codes.
  const std::int64_t* list_offsets;   ///< CSR: row_offsets; delta: group_offsets. From row 0.
  const void* values;                 ///< Of the whole matrix.
  const std::int64_t* value_offsets;  ///< CSR: row_offsets again.
  const float* x;                     ///< K values.
  std::int64_t row, rows;
  float* sums;
};

using GatherInner = void(const GatherJob& job);

/// The inner loops of one format at one instruction set.
struct GatherInners {
  GatherInner *bf16, *f16, *f32;
};

extern const GatherInners kCsr32Avx512, kCsr16Avx512, kDelta8Avx512, kDelta4Avx512;
extern const GatherInners kCsr32Avx2, kCsr16Avx2, kDelta8Avx2, kDelta4Avx2;

}  // namespace rarefy
