// A weight as even.cu reads it: rows dealt to blocks, and every block's nonzeros in segments of
// GROUP vectors, as many in every block.
//
//   begin    items + 1 × u32   item i owns the vectors [begin[i], begin[i + 1]), whole segments
//   target   items × u32       the row of C; bit 31: none
//   columns, values            vectors (vectors.h), the same number for every block
//
// Every block has as many items: its rows from top to bottom, and at least one more, the last of
// which owns what the block is padded with.
//
// Rows go to the lightest block, those of most nonzeros first, so that blocks are even whatever the
// pattern; within a block nothing depends on where rows end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ops/spmm/cuda/composed/vectors.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

struct EvenSpec {
  VectorFormat format;
  int group = 1;   ///< Vectors of a segment.
  int blocks = 1;  ///< That rows are dealt to.
};

struct EvenArrays {
  std::vector<std::uint32_t> begin, target;
  std::vector<std::byte> columns, values;
  std::int64_t vectors = 0;  ///< Of a block: whole segments, a multiple of 32.
  std::int64_t items = 0;    ///< Of a block.
};

/// Bit 31 of a target: no row. To expand.cu, which writes these weights out too, it is a piece of a
/// row, whose row is not its business.
constexpr std::uint32_t kEvenNoRow = 0x80000000U;

/// `csr` has 32-bit columns. The same bytes for any number of threads. Throws `Error`
/// (kUnsupported) for 2²⁹ rows or 2³² vectors.
EvenArrays pack_even(const CsrMatrix& csr, const EvenSpec& spec, ThreadPool& pool = default_pool());

}  // namespace rarefy::gpu
