// A weight as composed.cu reads it: items, each a run of whole vectors, in falling order of
// length (those that share a row with most others first).
//
//   begin    items + 1 × u32   item i owns the vectors [begin[i], begin[i + 1]) and, if it is one
//                              of the first `heads`, its first ones from i · head on
//   target   items × u32       the row of C, or with bit 31 set the piece of a cut row that it is;
//                              bits 29 and 30: it is one of 1, 2, 4 or 8 neighbours that share that
//   columns, values            vectors (vectors.h)
//   rows     cut rows × u32    and first (cut rows + 1 × u32): which pieces are whose; row_of_piece
//                              says it the other way
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/csr.h"
#include "ops/spmm/cuda/composed/vectors.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

struct ComposedArrays {
  std::vector<std::uint32_t> begin, target;
  std::vector<std::byte> columns, values;
  std::vector<std::uint32_t> rows, first, row_of_piece;

  std::int64_t heads = 0;  ///< Items that have as many vectors as a head.

  [[nodiscard]] std::int64_t items() const { return static_cast<std::int64_t>(target.size()); }
};

/// What packing needs to know.
struct PackSpec {
  VectorFormat format;
  std::int64_t longest_item = 0;  ///< Nonzeros; longer rows are shared by neighbours,
  int neighbours = 1;             ///< up to this many (1, 2, 4, 8), or cut into pieces.
  std::int64_t head = 0;          ///< Vectors of a head; 0: none.
};

/// `csr` has 32-bit columns. Throws `Error` (kUnsupported) for 2²⁹ rows or 2³² vectors.
ComposedArrays pack_composed(const CsrMatrix& csr, const PackSpec& spec,
                             ThreadPool& pool = default_pool());

}  // namespace rarefy::gpu
