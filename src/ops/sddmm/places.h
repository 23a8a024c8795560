// Where a matrix stores values, as rows of columns, whatever its format.
#pragma once

#include "formats/csr.h"
#include "formats/panels.h"
#include "rarefy/matrix.h"

namespace rarefy {

/// Stored places of a matrix, row after row, columns ascending. CSR: its entries, zeros included.
/// BSR: every place of a stored block. Dense: every place. Other formats: their nonzeros.
struct Places {
  Buffer row_offsets;                 ///< rows + 1 × i64; empty where they are borrowed.
  Buffer columns;                     ///< u32 each; empty where they are borrowed.
  MatrixPtr packed;                   ///< A CSR matrix that was made for its places.
  const CsrMatrix* lender = nullptr;  ///< Columns of 32 bits that are places already.

  [[nodiscard]] const std::int64_t* offsets() const {
    return lender != nullptr ? lender->row_offsets() : row_offsets.as<std::int64_t>();
  }
  [[nodiscard]] const std::uint32_t* column() const {
    return lender != nullptr ? lender->col_indices<std::uint32_t>() : columns.as<std::uint32_t>();
  }
};

/// count(row) says how many places a row has, fill(row, columns) lists them.
template <class Count, class Fill>
Places make_places(std::int64_t rows, ThreadPool& pool, Count&& count, Fill&& fill) {
  Places places;
  places.row_offsets = Buffer(static_cast<std::size_t>(rows + 1) * sizeof(std::int64_t));
  auto* offsets = places.row_offsets.as<std::int64_t>();
  pool.parallel_for(rows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) offsets[r + 1] = count(r);
  });
  const std::int64_t total = to_offsets(offsets, rows);
  places.columns = Buffer(static_cast<std::size_t>(total) * sizeof(std::uint32_t));
  auto* columns = places.columns.as<std::uint32_t>();
  pool.parallel_for(rows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) fill(r, columns + offsets[r]);
  });
  return places;
}

/// They may be the pattern's own, which must outlive them. Throws `Error` (kUnsupported) for more
/// than 2^32 columns.
Places places_of(const Matrix& pattern, ThreadPool& pool);

/// A matrix like `pattern` with these f32 values at its places, rounded to its dtype.
MatrixPtr with_values(const Matrix& pattern, const Places& places, const float* values,
                      ThreadPool& pool);

}  // namespace rarefy
