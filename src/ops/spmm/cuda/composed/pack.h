// A weight as the composed kernels read it: items in falling order of length, each a run of whole
// vectors.
//
//   begin    items + 1 × u32   item i owns the vectors [begin[i], begin[i + 1])
//   target   items × u32       the row of C, or with bit 31 set a slot of partial sums
//   columns  vectors × VEC × u16 or u32, or a u64 a vector (delta, columns.cuh)
//   values   vectors × VEC × f32, f16 or bf16
//   rows     cut rows × u32    and slots (cut rows + 1 × u32): whose sums lie in which slots
//
// A run is padded to whole vectors with zeros at the last column it has; a delta run holds zeros
// where two nonzeros of a vector are more than 63 columns apart, too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/csr.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

struct ComposedArrays {
  std::vector<std::uint32_t> begin, target;
  std::vector<std::byte> columns, values;
  std::vector<std::uint32_t> rows, slots;

  [[nodiscard]] std::int64_t items() const { return static_cast<std::int64_t>(target.size()); }
};

/// What packing needs to know.
struct PackSpec {
  int vec = 4;
  int index_bits = 16;    ///< 32, 16, or 6: delta.
  bool swizzled = false;  ///< Columns as ComposedConfig::swizzled says.
  std::int64_t longest_piece = 0;
};

/// `csr` has 32-bit columns. Throws `Error` (kUnsupported) for 2³¹ rows or 2³² vectors.
ComposedArrays pack_composed(const CsrMatrix& csr, const PackSpec& spec,
                             ThreadPool& pool = default_pool());

}  // namespace rarefy::gpu
