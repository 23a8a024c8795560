// Where a matrix stores values, as rows of columns, whatever its format.
#pragma once

#include "rarefy/matrix.h"

namespace rarefy {

/// Stored places of a matrix, row after row, columns ascending. CSR: its entries, zeros included.
/// BSR: every place of a stored block. Dense: every place. Other formats: their nonzeros.
struct Places {
  Buffer row_offsets;  ///< rows + 1 × i64
  Buffer columns;      ///< u32 each

  [[nodiscard]] const std::int64_t* offsets() const { return row_offsets.as<std::int64_t>(); }
  [[nodiscard]] const std::uint32_t* column() const { return columns.as<std::uint32_t>(); }
};

/// Throws `Error` (kUnsupported) for more than 2^32 columns.
Places places_of(const Matrix& pattern, ThreadPool& pool);

/// A matrix like `pattern` with these f32 values at its places, rounded to its dtype.
MatrixPtr with_values(const Matrix& pattern, const Places& places, const float* values,
                      ThreadPool& pool);

}  // namespace rarefy
