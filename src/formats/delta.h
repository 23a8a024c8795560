// Delta: a row is a list of codes that say how far the next nonzero is, and the nonzeros beside it.
//
//   code 1 … 2^b - 1   go that many columns on from the last place (-1 at the start of a row) and
//                      take the next value
//   code 0             go 2^b - 1 columns on and take nothing: an escape costs b bits, no value
//
//   group_offsets  M + 1 × i64   row r holds the groups [group_offsets[r], group_offsets[r + 1])
//   value_offsets  M + 1 × i64   … and the values [value_offsets[r], value_offsets[r + 1])
//   codes          groups of 32 bytes: 64 codes of 4 bits (the low half of a byte first), or 32 of
//   8
//                  bits. Rows end with escapes up to a whole group, so that kernels have no tails.
//   values         nnz × f32, f16 or bf16
//
// Behind codes and values lie kTailBytes of zeros. At density d a code of 4 bits costs
// 1/(1 - (1-d)^15) nibbles a nonzero: 0.52 bytes at 80 % zeros, 0.63 at 90 %, 0.93 at 95 %; 8 bits
// cost 1.00 down to 98 %. A bitmap costs 1/(8d): 0.63, 1.25, 2.5.
#pragma once

#include "formats/packed.h"

namespace rarefy {

class DeltaMatrix final : public PackedMatrix {
 public:
  static constexpr std::int64_t kGroupBytes = 32;

  struct Arrays {
    Buffer group_offsets, value_offsets, codes, values;
  };
  DeltaMatrix(const PackedShape& shape, Arrays arrays);

  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] std::size_t bytes() const override;
  void validate() const override;

  [[nodiscard]] int code_bits() const { return spec().index_bits; }
  [[nodiscard]] std::int64_t group_codes() const { return kGroupBytes * 8 / code_bits(); }
  [[nodiscard]] const std::int64_t* group_offsets() const {
    return arrays_.group_offsets.as<std::int64_t>();
  }
  [[nodiscard]] const std::int64_t* value_offsets() const {
    return arrays_.value_offsets.as<std::int64_t>();
  }
  [[nodiscard]] const std::uint8_t* codes() const { return arrays_.codes.as<std::uint8_t>(); }
  [[nodiscard]] const void* values() const { return arrays_.values.data(); }
  [[nodiscard]] const Arrays& arrays() const { return arrays_; }

 private:
  Arrays arrays_;
};

}  // namespace rarefy
