// The order of values in packed tiles and blocks: strips of 16 rows, column after column, so that
// one vector load brings the values of 16 outputs for one column. bf16 takes columns in pairs (the
// order that AMX and vdpbf16ps multiply in, "VNNI"): a 16×32 tile of it is one AMX tile, 16 lines
// of 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rarefy/dtype.h"

namespace rarefy {

inline constexpr std::int64_t kStripRows = 16;

/// Columns whose values lie side by side for one row: 2 for bf16, else 1.
constexpr std::int64_t strip_pair(DType dtype) {
  return dtype == DType::kBF16 ? 2 : 1;
}

/// Where the value of (row, col) lies in a strip, in elements.
constexpr std::int64_t strip_index(std::int64_t row, std::int64_t col, std::int64_t pair) {
  return (col / pair) * kStripRows * pair + row * pair + col % pair;
}

/// Copies rows×cols values (row r at `from` + r·row_stride elements; rows ≤ 16) to a strip that is
/// 16 rows × `width` columns, `width` a multiple of the pair. What lies outside and every -0 become
/// +0.
void pack_strip(const void* from, DType dtype, std::int64_t row_stride, std::int64_t rows,
                std::int64_t cols, std::int64_t width, void* strip);

/// The inverse: writes rows [row_begin, row_end) of a strip, `cols` columns each, to `to`.
void unpack_strip(const void* strip, DType dtype, std::int64_t row_begin, std::int64_t row_end,
                  std::int64_t cols, void* to, std::int64_t row_stride);

/// Copies `count` values, turning -0 into +0.
void copy_without_negative_zeros(const void* from, DType dtype, std::int64_t count, void* to);

}  // namespace rarefy
