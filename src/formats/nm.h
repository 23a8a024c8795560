// N:M: every m consecutive columns hold at most n nonzeros, and store exactly n slots.
//
//   values   M × row_slots × f32, f16 or bf16: slot g·n + s of a row is value s of group g, columns
//            [g·m, g·m + m)
//   indices  M × row_index_bytes: the place of each slot within its group in index_width =
//            ceil(log2 m) bits, slot i at bits [i·width, (i + 1)·width), low bits first; 8 slots
//            take width bytes
//
// A row has ceil(K/m)·n slots, and empty slots behind them up to a multiple of 16. In a group the
// nonzeros come first, by rising place; empty slots follow: value +0, place 0. Behind both arrays
// lie kTailBytes of zeros.
#pragma once

#include "formats/packed.h"

namespace rarefy {

class NmMatrix final : public PackedMatrix {
 public:
  static constexpr std::int64_t kSlotMultiple = 16;
  static constexpr int kMaxM = 32;

  struct Arrays {
    Buffer values, indices;
  };
  NmMatrix(const PackedShape& shape, Arrays arrays);

  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] std::size_t bytes() const override;
  void validate() const override;

  [[nodiscard]] static int index_width(int m);  ///< Bits a place takes: 2 for 2:4.
  [[nodiscard]] static std::int64_t row_slots(const FormatSpec& spec, std::int64_t cols);
  [[nodiscard]] std::int64_t row_slots() const { return row_slots(spec(), cols()); }
  [[nodiscard]] std::int64_t row_index_bytes() const {
    return row_slots() * index_width(spec().m) / 8;
  }
  [[nodiscard]] const void* values() const { return arrays_.values.data(); }
  [[nodiscard]] const std::uint8_t* indices() const { return arrays_.indices.as<std::uint8_t>(); }
  [[nodiscard]] const Arrays& arrays() const { return arrays_; }

 private:
  Arrays arrays_;
};

}  // namespace rarefy
