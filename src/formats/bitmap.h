// Bitmap: one bit a position and the nonzeros themselves, interleaved tile by tile in one stream.
//
// Rows are cut into blocks of 16, a block into tiles of 16 outputs by kTileCols columns (32 for
// 16-bit values, 16 for f32), so that a tile is 16 groups of one 64-byte vector each:
//
//   16-bit values: group p, lane 2r+j holds (row r, column 2p+j)    (VNNI order, what vdpbf16ps and
//                                                                     the AMX B operand take)
//   f32 values:    group c, lane r    holds (row r, column c)
//
//   tile = | mask 0 | mask 1 | … | mask 15 | values of group 0, lane order | values of group 1 | …
//            u32 each (16-bit values) or u16 each (f32), bit l = lane l
//
// Tiles of a block follow each other without padding: a tile starts 2-byte (f32: 4-byte) aligned,
// so its masks must be read as unaligned. Past the last tile lie kTailBytes that may be read and
// mean nothing. Rows ≥ M and columns ≥ K have no bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "rarefy/matrix.h"

namespace rarefy {

class BitmapMatrix final : public Matrix {
 public:
  static constexpr std::int64_t kTileRows = 16;
  static constexpr std::int64_t kGroups = 16;     ///< Groups (vectors, masks) of a tile.
  static constexpr std::size_t kTailBytes = 128;  ///< Readable past the last tile.

  /// `stream` holds the tiles and kTailBytes behind them; `offsets`, ceil(rows/16) + 1 byte
  /// offsets into it (u64), the last one where the tiles end.
  BitmapMatrix(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t nnz, Buffer stream,
               Buffer offsets);

  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] const FormatSpec& spec() const override { return format::kBitmap; }
  [[nodiscard]] std::int64_t nnz() const override { return nnz_; }
  [[nodiscard]] std::size_t bytes() const override { return stream_.size() + offsets_.size(); }
  void validate() const override;

  [[nodiscard]] std::int64_t tile_cols() const { return bitmap_tile_cols(dtype_); }
  [[nodiscard]] std::size_t mask_bytes() const { return size_of(dtype_) == 4 ? 32 : 64; }
  [[nodiscard]] std::int64_t row_blocks() const { return (rows_ + kTileRows - 1) / kTileRows; }
  [[nodiscard]] std::int64_t tiles_per_block() const {
    return (cols_ + tile_cols() - 1) / tile_cols();
  }
  /// First tile of a row block; tile after tile from there.
  [[nodiscard]] const std::byte* block(std::int64_t row_block) const {
    return stream_.data() + offsets()[static_cast<std::size_t>(row_block)];
  }
  /// row_blocks() + 1 byte offsets from block(0): work is cut by these.
  [[nodiscard]] std::span<const std::uint64_t> offsets() const {
    return offsets_.span<std::uint64_t>();
  }

  static std::int64_t bitmap_tile_cols(DType dtype) { return size_of(dtype) == 4 ? 16 : 32; }

 private:
  std::int64_t rows_, cols_;
  DType dtype_;
  std::int64_t nnz_;
  Buffer stream_, offsets_;
};

}  // namespace rarefy
