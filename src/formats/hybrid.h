// Hybrid: each block of a weight where it is cheapest. Blocks with many nonzeros are bitmap tiles
// (bitmap.h), which a matrix unit multiplies once they are decoded; blocks with few are compressed
// sparse blocks (csb.h), whose nonzeros are multiplied one by one; empty ones are nothing.
//
// Rows and columns may be sorted by their nonzeros, most first, so that blocks of skewed weights
// are more unequal. What is stored is the sorted weight; `row_order` and `col_order` say where each
// row and column of it came from, and kernels undo the order as they read and store.
//
// Tiles of 16 rows × 32 columns go in pairs, one under the other, so that two strips share the
// activations of a column tile:
//
//   row_order      rows × i32             empty when rows are not sorted
//   col_order      columns × i32          empty when columns are not sorted
//   pair_offsets   pairs + 1 × i64        pair p has tiles at columns[pair_offsets[p] …]
//   columns        i32                    column tile, rising within a pair
//   strip_offsets  2·pairs + 1 × u64      first byte of each strip of 16 rows in `stream`
//   stream         tiles as in bitmap.h, and kTailBytes behind them
//   sparse         the other nonzeros, a matrix of the same shape, or none
//
// After CROSS (HPCA 2025), which keeps dense blocks as they are, for tensor cores. Here they are
// bitmaps: a CPU has bandwidth for less than half of the products that it can compute.
#pragma once

#include <memory>
#include <vector>

#include "formats/bitmap.h"
#include "formats/csb.h"
#include "formats/packed.h"

namespace rarefy {

class HybridMatrix final : public PackedMatrix {
 public:
  static constexpr std::int64_t kPairRows = 32;
  /// Rows move within so many, so that their results return to one cache line or its neighbours.
  static constexpr std::int64_t kScope = 128;
  static constexpr std::int64_t kTileCols = 32;
  static constexpr std::size_t kTailBytes = BitmapMatrix::kTailBytes;

  struct Arrays {
    Buffer row_order, col_order, pair_offsets, columns, strip_offsets, stream;
    std::shared_ptr<const CsbMatrix> sparse;  ///< nullptr: no block is sparse.
  };
  /// Takes arrays as laid out above; `validate` checks them.
  HybridMatrix(const PackedShape& shape, Arrays arrays);

  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] std::size_t bytes() const override;
  void validate() const override;

  [[nodiscard]] std::int64_t pairs() const { return (rows() + kPairRows - 1) / kPairRows; }
  [[nodiscard]] std::int64_t strips() const { return (rows() + 15) / 16; }
  [[nodiscard]] std::int64_t tiles_per_strip() const {
    return (cols() + kTileCols - 1) / kTileCols;
  }
  /// nullptr when the order is the weight's own.
  [[nodiscard]] const std::int32_t* row_order() const { return order_of(arrays_.row_order); }
  [[nodiscard]] const std::int32_t* col_order() const { return order_of(arrays_.col_order); }
  [[nodiscard]] const std::int64_t* pair_offsets() const {
    return arrays_.pair_offsets.as<std::int64_t>();
  }
  [[nodiscard]] const std::int32_t* columns() const { return arrays_.columns.as<std::int32_t>(); }
  [[nodiscard]] const std::byte* strip(std::int64_t s) const {
    return arrays_.stream.data() + arrays_.strip_offsets.as<std::uint64_t>()[s];
  }
  [[nodiscard]] const CsbMatrix* sparse() const { return arrays_.sparse.get(); }
  /// Tiles that are stored, in pairs.
  [[nodiscard]] std::int64_t tile_pairs() const { return pair_offsets()[pairs()]; }
  [[nodiscard]] const Arrays& arrays() const { return arrays_; }

 private:
  static const std::int32_t* order_of(const Buffer& order) {
    return order.size() == 0 ? nullptr : order.as<std::int32_t>();
  }
  /// Rows [begin, end) in the order they are stored, all in one strip, columns as stored.
  void read_stored(std::int64_t begin, std::int64_t end, std::uint16_t* out) const;

  Arrays arrays_;
  std::vector<std::int32_t> stored_row_;  ///< Where a row lies; empty when rows are not sorted.
};

}  // namespace rarefy
