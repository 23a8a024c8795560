// Vectors of nonzeros: what the composed kernels read at once (columns.cuh).
//
//   columns  VEC × u16 or u32, or a u64 a vector (delta)
//   values   VEC × f32, f16 or bf16
//
// What a run of nonzeros does not fill is padded with zeros at the last column it has; a delta run
// holds zeros where two nonzeros of a vector are more than 63 columns apart, too.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/csr.h"

namespace rarefy::gpu {

struct VectorFormat {
  int vec = 4;            ///< Nonzeros.
  int index_bits = 16;    ///< 32, 16, or 6: delta, eight nonzeros.
  bool swizzled = false;  ///< Columns as ComposedConfig::swizzled says.

  [[nodiscard]] bool delta() const { return index_bits == kDeltaBits; }
  [[nodiscard]] std::size_t column_bytes() const {  ///< Of a vector.
    return delta() ? 8 : static_cast<std::size_t>(vec * index_bits / 8);
  }
  static constexpr int kDeltaBits = 6;
};

/// Nonzeros [begin, begin + count) of a CSR, in one row.
struct Nonzeros {
  std::int64_t begin = 0, count = 0;
};

/// Vectors that they take.
std::int64_t count_vectors(const CsrMatrix& csr, const Nonzeros& run, const VectorFormat& format);

/// Writes them, and zeros up to `vectors` vectors; a run of none must have none. `csr` has 32-bit
/// columns.
void write_vectors(const CsrMatrix& csr, const Nonzeros& run, const VectorFormat& format,
                   std::int64_t vectors, std::byte* columns, std::byte* values);

}  // namespace rarefy::gpu
