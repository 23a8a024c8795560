// A weight as the sliced kernels read it.
//
//   rows     ranges + 1 × u32   range r owns these consecutive rows of C: one block a tile of
//   columns streams  ranges · parts · warps + 1 × u32   the slices of a warp in a part of K slices
//   slices + 1 × u32   the batches of a slice: for each of 32 lanes four nonzeros slots    slices ·
//   32 / lanes × u16   where a row's sums go: rows of the range, then pieces of
//                               its long rows; 0xFFFF: nowhere
//   batches  for each 32 × 4 × u16 places (rows of B as they lie in shared memory), then
//            32 × 4 values, f32, f16 or bf16
//   extra_rows  the row of C of every slot for pieces, [extra_begin[r], extra_begin[r + 1]) a range
//   folds    pieces that are added to their row's slot, [fold_begin[r], fold_begin[r + 1]) a range
//
// A slice holds 32 / lanes items (rows, or pieces of rows, with their nonzeros in one part of K) of
// like length. At a step the eight lanes of a quarter-warp have places that differ modulo 8, but
// for what one residue has too much of; a lane without a nonzero multiplies zero by a row of zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "formats/csr.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

struct SliceFold {
  std::uint16_t slot = 0, first = 0, count = 0, unused = 0;
};

struct SliceStream {
  std::uint32_t slice = 0, begin = 0, end = 0, unused = 0;
};

struct SlicedArrays {
  std::vector<SliceStream> streams;
  std::vector<std::uint32_t> rows, slices, fold_begin, extra_begin, extra_rows;
  std::vector<std::uint16_t> slots;
  std::vector<SliceFold> folds;
  std::vector<std::byte> batches;
  std::int64_t most_slots = 0;  ///< Of all ranges.
};

struct SliceSpec {
  int lanes = 1;          ///< That share a row: 1, 2, 4, 8, 16 or 32.
  int warps = 32;         ///< Of a block.
  std::int64_t part = 0;  ///< Rows of B that are in shared memory at a time; a multiple of 8.
  int parts = 1;
  std::int64_t longest = 0;  ///< Nonzeros of an item: longer rows are cut.
};

/// Where each of `ranges` ranges begins, and the end: about as many nonzeros each, where a row
/// counts as half a mean row more than it has.
std::vector<std::uint32_t> split_rows(std::span<const std::int32_t> row_nnz, std::int64_t ranges);

/// The most slots that a range needs: its rows, and the pieces of those that are cut.
std::int64_t most_slots(std::span<const std::int32_t> row_nnz, std::span<const std::uint32_t> rows,
                        std::int64_t longest);

/// `csr` has 32-bit columns; `rows` is from split_rows. Throws `Error` (kUnsupported) where a range
/// has 65535 slots or more, or the batches are more than 2³².
SlicedArrays pack_sliced(const CsrMatrix& csr, std::vector<std::uint32_t> rows,
                         const SliceSpec& spec, ThreadPool& pool = default_pool());

}  // namespace rarefy::gpu
