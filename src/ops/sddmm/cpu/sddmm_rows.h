// To be included by ISA files only: everything here has internal linkage.
#pragma once

#include <cstdint>

#include "ops/sddmm/cpu/sddmm_inner.h"

namespace rarefy::sddmm_cpu {
namespace {

/// The row of P stays in registers; each place reads the column of Q, which the range keeps in L1.
template <class Vector, int kVectors>
void rows(const Job& job) {
  constexpr int kFloats = 16 * kVectors;
  constexpr int kChains = kVectors < 2 ? 1 : 2;
  for (std::int64_t r = job.row_begin; r < job.row_end; ++r) {
    std::int64_t& next = job.next[r - job.row_begin];
    const std::int64_t end = job.row_offsets[r + 1];
    Vector p[kVectors];
    for (int i = 0; i < kVectors; ++i) p[i] = Vector::load(job.p + r * kFloats + 16 * i);
    std::int64_t place = next;
    for (; place < end && job.columns[place] < job.k_end; ++place) {
      const float* q = job.q + static_cast<std::int64_t>(job.columns[place]) * kFloats;
      Vector sums[kChains];
      for (int chain = 0; chain < kChains; ++chain) sums[chain] = Vector::zero();
      for (int i = 0; i < kVectors; ++i)
        sums[i % kChains].add_products(p[i], Vector::load(q + 16 * i));
      if constexpr (kChains == 2) sums[0].add(sums[1]);
      const float sum = sums[0].sum();
      job.values[place] = job.add ? job.values[place] + sum : sum;
    }
    next = place;
  }
}

template <class Vector>
void run(const Job& job, int vectors) {
  if (vectors == 1) return rows<Vector, 1>(job);
  if (vectors == 2) return rows<Vector, 2>(job);
  if (vectors == 4) return rows<Vector, 4>(job);
  rows<Vector, 8>(job);
}

}  // namespace
}  // namespace rarefy::sddmm_cpu
