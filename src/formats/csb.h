// Compressed sparse blocks: row lists cut into blocks of 256 rows × 128 columns, block after block,
// so that a kernel reads one stream while it multiplies activations that stay in L1.
//
// Within a block the entries of a row lie together: a visit. Visits are sorted by their number of
// entries, those of equally many by row, because a loop whose length changes at random costs a
// wrong guess of the branch predictor each time.
//
//   visit_offsets  blocks + 1 × i64   block b holds visits [visit_offsets[b], visit_offsets[b + 1])
//   entry_offsets  blocks + 1 × i64   and these entries, in the order of its visits
//   visits         2 bytes each       row within the block, entries - 1
//   columns        entries × u8       column within the block, rising within a visit
//   values         entries × f32, f16 or bf16
//
// Blocks are numbered row by row of the grid. Behind columns and values lie kTailBytes of zeros.
//
// After A. Buluç et al., "Parallel sparse matrix-vector multiplication using compressed sparse
// blocks", SPAA 2009, whose blocks are square, keep (row, column) pairs and no rows together.
#pragma once

#include "formats/packed.h"

namespace rarefy {

class CsbMatrix final : public PackedMatrix {
 public:
  static constexpr std::int64_t kBlockRows = 256;
  /// 128 columns of 64 tokens in f32 are 32 KiB, two thirds of an L1.
  static constexpr std::int64_t kBlockCols = 128;
  /// The entries of one row in one block.
  struct Visit {
    std::uint8_t row;
    std::uint8_t last;  ///< One less than there are entries.
    [[nodiscard]] std::int64_t count() const { return std::int64_t{last} + 1; }
  };
  struct Arrays {
    Buffer visit_offsets, entry_offsets, visits, columns, values;
  };
  /// Takes arrays as laid out above; `validate` checks them.
  CsbMatrix(const PackedShape& shape, Arrays arrays);

  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] std::size_t bytes() const override;
  void validate() const override;

  [[nodiscard]] std::int64_t grid_rows() const { return (rows() + kBlockRows - 1) / kBlockRows; }
  [[nodiscard]] std::int64_t grid_cols() const { return (cols() + kBlockCols - 1) / kBlockCols; }
  [[nodiscard]] const std::int64_t* visit_offsets() const {
    return arrays_.visit_offsets.as<std::int64_t>();
  }
  [[nodiscard]] const std::int64_t* entry_offsets() const {
    return arrays_.entry_offsets.as<std::int64_t>();
  }
  [[nodiscard]] const Visit* visits() const { return arrays_.visits.as<Visit>(); }
  [[nodiscard]] const std::uint8_t* columns() const { return arrays_.columns.as<std::uint8_t>(); }
  [[nodiscard]] const void* values() const { return arrays_.values.data(); }
  [[nodiscard]] const Arrays& arrays() const { return arrays_; }

 private:
  void check_block(std::int64_t block) const;

  Arrays arrays_;
};

}  // namespace rarefy
