// Compressed sparse rows: the values of a row one after the other, the column of each beside them.
//
//   row_offsets  M + 1 × i64   row r holds entries [row_offsets[r], row_offsets[r + 1])
//   col_indices  entries × u32 or u16, rising within a row; u16 where K ≤ 65536
//   values       entries × f32, f16 or bf16; explicit zeros are allowed (SDDMM makes them)
//
// Behind col_indices and values lie kTailBytes of zeros.
#pragma once

#include "formats/packed.h"

namespace rarefy {

class CsrMatrix final : public PackedMatrix {
 public:
  struct Arrays {
    Buffer row_offsets, col_indices, values;
  };
  /// Takes arrays as laid out above; `validate` checks them.
  CsrMatrix(const PackedShape& shape, Arrays arrays);

  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] std::size_t bytes() const override;
  void validate() const override;

  [[nodiscard]] const std::int64_t* row_offsets() const {
    return arrays_.row_offsets.as<std::int64_t>();
  }
  [[nodiscard]] std::int64_t entries() const { return row_offsets()[rows()]; }
  /// Index is std::uint32_t or std::uint16_t, as spec().index_bits says.
  template <class Index>
  [[nodiscard]] const Index* col_indices() const {
    return arrays_.col_indices.as<Index>();
  }
  [[nodiscard]] const void* values() const { return arrays_.values.data(); }
  [[nodiscard]] const Arrays& arrays() const { return arrays_; }

 private:
  Arrays arrays_;
};

}  // namespace rarefy
