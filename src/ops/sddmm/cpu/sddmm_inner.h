// Dot products at stored places, one range of columns and one panel of t at a time. Plain data: ISA
// files include this.
#pragma once

#include <cstdint>

namespace rarefy::sddmm_cpu {

struct Job {
  const std::int64_t* row_offsets;
  const std::uint32_t* columns;
  std::int64_t row_begin, row_end;
  std::int64_t k_end;  ///< Places below this column belong to the range.
  std::int64_t* next;  ///< For each row, the first place not yet computed; advanced.
  const float* p;      ///< Row i of P's panel at p + i·16·vectors
  const float* q;      ///< Column j of Q's panel at q + j·16·vectors
  float* values;       ///< One a place
  bool add;            ///< The values hold the sums of earlier panels.
};

/// vectors: 1, 2, 4 or 8 of 16 t each.
using Run = void(const Job& job, int vectors);
Run run_avx512, run_avx2, run_portable;

}  // namespace rarefy::sddmm_cpu
