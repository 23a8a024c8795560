// Sliced ELL with gaps (SELL-C-σ, Kreutzer et al. 2014, with deltas instead of columns).
//
// Rows are sorted by length within scopes of 64 and cut into slices of 16, one row a lane. A slice
// is as many steps as its longest row has entries; step i holds entry i of each lane:
//
//   | 16 gaps, u8 or u16 | 16 values |
//
// A lane's column starts at 0 and grows by each gap. A gap that the field can't hold is cut by
// entries with the largest gap and value 0; rows shorter than their slice end with gaps and values
// of 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "rarefy/matrix.h"

namespace rarefy {

class SellMatrix final : public Matrix {
 public:
  static constexpr std::int64_t kLanes = 16;
  static constexpr std::int64_t kScope = 64;           ///< Rows sorted together.
  static constexpr std::uint32_t kNoRow = 0xffffffff;  ///< In order(): a lane past the last row.
  static constexpr std::size_t kTailBytes = 64;        ///< Readable past the last step.

  /// `stream` holds the slices and kTailBytes; `offsets` (u64, slices + 1) where they start;
  /// `order` (u32, slices · 16) the row of each lane.
  SellMatrix(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, DType dtype,
             std::int64_t nnz, Buffer stream, Buffer offsets, Buffer order);

  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] const FormatSpec& spec() const override { return spec_; }
  [[nodiscard]] std::int64_t nnz() const override { return nnz_; }
  [[nodiscard]] std::size_t bytes() const override {
    return stream_.size() + offsets_.size() + order_.size();
  }
  void validate() const override;

  [[nodiscard]] std::int64_t slices() const { return (rows_ + kLanes - 1) / kLanes; }
  [[nodiscard]] std::size_t gap_bytes() const { return spec_.index_bits == 8 ? 1 : 2; }
  [[nodiscard]] std::size_t step_bytes() const { return kLanes * (gap_bytes() + size_of(dtype_)); }
  [[nodiscard]] const std::byte* stream() const { return stream_.data(); }
  [[nodiscard]] std::span<const std::uint64_t> offsets() const {
    return offsets_.span<std::uint64_t>();
  }
  [[nodiscard]] std::span<const std::uint32_t> order() const {
    return order_.span<std::uint32_t>();
  }

 private:
  FormatSpec spec_;
  std::int64_t rows_, cols_;
  DType dtype_;
  std::int64_t nnz_;
  Buffer stream_, offsets_, order_;
};

}  // namespace rarefy
