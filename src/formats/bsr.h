// Block sparse rows: dense blocks of one shape at sparse places of a grid.
//
// Blocks of a block row are stored in order of their columns. Inside a block the values lie in one
// of two orders: in strips (strips.h), block_rows / 16 of them one after the other, where the
// height is a multiple of 16 (and, for bf16, the width even); otherwise row-major. A block at the
// right or lower edge is filled with zeros.
#pragma once

#include <vector>

#include "formats/strips.h"
#include "rarefy/matrix.h"

namespace rarefy {

class Bsr final : public Matrix {
 public:
  struct Arrays {
    std::vector<std::int64_t> row_offsets;  ///< block rows + 1; in blocks.
    std::vector<std::int32_t> columns;      ///< Block column of each block, ascending in a row.
    Buffer values;
  };

  Bsr(std::int64_t rows, std::int64_t cols, DType dtype, const FormatSpec& spec, std::int64_t nnz,
      Arrays arrays);

  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] const FormatSpec& spec() const override { return spec_; }
  [[nodiscard]] std::int64_t nnz() const override { return nnz_; }
  [[nodiscard]] std::size_t bytes() const override;
  void validate() const override;

  /// Whether blocks of this shape and dtype lie in strips.
  static constexpr bool in_strips(const FormatSpec& spec, DType dtype) {
    return spec.block_rows % kStripRows == 0 && spec.block_cols % strip_pair(dtype) == 0;
  }
  [[nodiscard]] bool in_strips() const { return in_strips(spec_, dtype_); }

  [[nodiscard]] std::int64_t block_rows() const { return spec_.block_rows; }
  [[nodiscard]] std::int64_t block_cols() const { return spec_.block_cols; }
  [[nodiscard]] std::int64_t grid_rows() const { return ceil_div(rows_, spec_.block_rows); }
  [[nodiscard]] std::int64_t grid_cols() const { return ceil_div(cols_, spec_.block_cols); }
  [[nodiscard]] std::size_t block_bytes() const {
    return static_cast<std::size_t>(block_rows() * block_cols()) * size_of(dtype_);
  }
  [[nodiscard]] const std::int64_t* row_offsets() const { return arrays_.row_offsets.data(); }
  [[nodiscard]] const std::int32_t* columns() const { return arrays_.columns.data(); }
  [[nodiscard]] const std::byte* block(std::int64_t i) const {
    return arrays_.values.data() + static_cast<std::size_t>(i) * block_bytes();
  }

 private:
  static constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
  /// Rows [begin, end) of block `i`, of `cols` columns, to `to`.
  void read_block(std::int64_t i, std::int64_t begin, std::int64_t end, std::int64_t cols,
                  std::byte* to) const;

  std::int64_t rows_, cols_;
  DType dtype_;
  FormatSpec spec_;
  std::int64_t nnz_;
  Arrays arrays_;
};

}  // namespace rarefy
