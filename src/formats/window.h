// Window: lists of nonzeros cut by windows of 128 columns, so that a kernel gathers activations
// from registers (vpermi2b picks 64 bytes from a table of 128) instead of from memory.
//
// Rows are cut into blocks: 32 rows of bf16, 64 of f16 or f32. Within one block and one window
// every row has a list of nonzeros, in column order, taken by *lanes* of kPerLane: 2 for bf16 (what
// vdpbf16ps adds up), 1 otherwise; an odd list ends with a zero that repeats its last column. Step
// i of a window holds lane i of each row that has one, as G groups of 16 rows (G · kPerLane = 4):
//
//   masks of the step    | u16 group 0 | u16 group 1 | …          bit r: row 16g+r takes part
//   data of the step     | columns: 4 · max n_g bytes | values of group 0 | values of group 1 | …
//                          byte 4q + G·j + g is the column, within the window, of value j of the
//                          q-th row taking part in group g; n_g rows take part in group g
//
// The first column byte of the first step of every window has bit 7 set: that is how a reader knows
// that the next window begins, without a branch on counts. Every window has a step (one lane of
// zeros when there is nothing in it). A block is all its masks, then all its data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "rarefy/matrix.h"

namespace rarefy {

class WindowMatrix final : public Matrix {
 public:
  static constexpr std::int64_t kWindow = 128;    ///< Columns.
  static constexpr std::size_t kTailBytes = 256;  ///< Readable past the last step.
  static constexpr std::byte kNewWindow{0x80};    ///< In the first column byte of a step.

  static int per_lane(DType dtype) { return dtype == DType::kBF16 ? 2 : 1; }
  static int groups(DType dtype) { return 4 / per_lane(dtype); }
  static std::int64_t block_rows(DType dtype) { return 16 * groups(dtype); }

  /// `stream` holds the blocks and kTailBytes; `offsets` (u64, blocks + 1) where they start;
  /// `steps` (u32, blocks) how many steps each has.
  WindowMatrix(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t nnz, Buffer stream,
               Buffer offsets, Buffer steps);

  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] const FormatSpec& spec() const override { return format::kWindow; }
  [[nodiscard]] std::int64_t nnz() const override { return nnz_; }
  [[nodiscard]] std::size_t bytes() const override {
    return stream_.size() + offsets_.size() + steps_.size();
  }
  void validate() const override;

  [[nodiscard]] std::int64_t blocks() const {
    return (rows_ + block_rows(dtype_) - 1) / block_rows(dtype_);
  }
  [[nodiscard]] std::int64_t windows() const { return (cols_ + kWindow - 1) / kWindow; }
  [[nodiscard]] const std::byte* stream() const { return stream_.data(); }
  [[nodiscard]] std::span<const std::uint64_t> offsets() const {
    return offsets_.span<std::uint64_t>();
  }
  [[nodiscard]] std::span<const std::uint32_t> steps() const {
    return steps_.span<std::uint32_t>();
  }

 private:
  std::int64_t rows_, cols_;
  DType dtype_;
  std::int64_t nnz_;
  Buffer stream_, offsets_, steps_;
};

}  // namespace rarefy
