// Dense in tiles of 1 KiB: 16 rows × 32 columns of 16-bit values or 16 × 16 of f32, each in strip
// order (strips.h), the tiles of 16 rows one after the other. Edge tiles are filled with zeros.
#pragma once

#include "formats/strips.h"
#include "rarefy/matrix.h"

namespace rarefy {

class DenseTiles final : public Matrix {
 public:
  static constexpr std::int64_t kTileBytes = 1024;
  static constexpr std::int64_t tile_cols(DType dtype) { return dtype == DType::kF32 ? 16 : 32; }

  DenseTiles(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t nnz, Buffer values);

  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] const FormatSpec& spec() const override { return spec_; }
  [[nodiscard]] std::int64_t nnz() const override { return nnz_; }
  [[nodiscard]] std::size_t bytes() const override { return values_.size(); }
  void validate() const override;

  /// Groups of 16 rows.
  [[nodiscard]] std::int64_t strips() const { return (rows_ + kStripRows - 1) / kStripRows; }
  [[nodiscard]] std::int64_t tiles_per_strip() const {
    return (cols_ + tile_cols(dtype_) - 1) / tile_cols(dtype_);
  }
  /// The first tile of a strip; the others follow it, 1 KiB apart.
  [[nodiscard]] const std::byte* strip(std::int64_t s) const {
    return values_.data() + s * tiles_per_strip() * kTileBytes;
  }

 private:
  std::int64_t rows_, cols_;
  DType dtype_;
  std::int64_t nnz_;
  FormatSpec spec_;
  Buffer values_;
};

}  // namespace rarefy
