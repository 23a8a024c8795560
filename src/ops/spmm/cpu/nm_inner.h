// Inner loops of SpMV over N:M rows, one function an instruction set and weight dtype.
#pragma once

#include <cstdint>

namespace rarefy {

/// sums[i] = Σ slots value · x[column] over row i = 0 … rows - 1. A step takes 16 slots (AVX-512)
/// or 8 (AVX2) of each of several rows, which share the window of x that those slots can reach.
struct NmJob {
  const void* values;           ///< First row.
  const std::uint8_t* indices;  ///< First row.
  std::int64_t row_slots;       ///< A multiple of 16.
  std::int64_t row_index_bytes;
  std::int64_t rows;
  int index_width;
  /// Columns that a step advances by when n divides its slots, else 0: the columns then follow from
  /// `columns` alone.
  std::int64_t window;
  /// For slot s: its group's first column is columns[s % period] + s / period · period_columns.
  const std::int32_t* columns;
  std::int64_t period;  ///< A multiple of 16 and of n.
  std::int64_t period_columns;
  const float* x;  ///< Readable (zeros) for 64 columns behind the last group.
  float* sums;
};

using NmInner = void(const NmJob& job);

struct NmInners {
  NmInner *bf16, *f16, *f32;
};

extern const NmInners kNmAvx512, kNmAvx2;

}  // namespace rarefy
