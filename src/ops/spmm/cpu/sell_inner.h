// The inner loops of sliced ELL weights, one function an instruction set, weight dtype and gap
// width.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy {

/// sums[slice][token][lane] of 16 lanes, for consecutive slices.
struct SellJob {
  const std::byte* stream;       ///< What the offsets count from.
  const std::uint64_t* offsets;  ///< One a slice, and the end of the last.
  std::int64_t slices;
  const float* x;  ///< Token t at x + t · x_stride.
  std::int64_t x_stride;
  std::int64_t tokens;
  float* sums;
};
using SellInner = void(const SellJob& job);

/// [weights: bf16, f16, f32][gaps: 8, 16 bits]
using SellTable = SellInner* const[3][2];
extern SellTable sell_portable;
extern SellTable sell_avx2;
extern SellTable sell_avx512;

}  // namespace rarefy
