// What the CSR kernels for many tokens share with their ISA files: plain data only.
//
// A panel of activations is K × (16·vectors) f32. A row's sums for one panel stay in registers
// while its nonzeros in a range of K go past: each is a broadcast times a row of the panel. The
// range is chosen so that its part of the panel stays in L1, because every nonzero reads 64·vectors
// bytes of it: L2 would halve the speed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rarefy/dtype.h"

namespace rarefy::csr {

struct Job {
  const std::int64_t* row_offsets;
  const void* columns;  ///< u32 or u16
  const void* values;
  std::int64_t row_begin, row_end;
  std::int64_t k_end;          ///< Entries below this column belong to the range.
  std::int64_t entries_a_row;  ///< That belong to the range, about.
  std::int64_t* next;          ///< For each row, the first entry not yet used; advanced.
  const float* panel;          ///< Row k at panel + k·16·vectors
  float* sums;                 ///< 16·vectors floats a row
  bool add;  ///< The sums hold those of earlier ranges; otherwise they are written.
};

/// Blocks whose values lie row-major inside them.
struct BlockJob {
  const std::int64_t* row_offsets;  ///< Of block rows.
  const std::int32_t* columns;
  const std::byte* values;
  std::int64_t height, width;
  std::int64_t row_begin, row_end;  ///< In rows.
  std::int64_t k_begin, k_end;      ///< Multiples of the width.
  const float* panel;
  float* sums;
  bool add;
};

inline constexpr int kMostVectors = 8;

/// vectors: 1, 2, 4 or 8.
using Run = void(const Job& job, int vectors, int index_bits, DType dtype);
using RunBlocks = void(const BlockJob& job, int vectors, DType dtype);

Run run_avx512, run_avx2, run_portable;
RunBlocks run_blocks_avx512, run_blocks_avx2, run_blocks_portable;

}  // namespace rarefy::csr
