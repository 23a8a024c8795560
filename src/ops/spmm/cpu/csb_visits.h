// Visits of a sparse block times a panel, for any instruction set. To be included by ISA files
// only, after a `Vector` of 16 floats: everything here has internal linkage.
//
// A visit loads a row's sums, adds its products and stores them. Rows of equally many entries
// follow one another, so that the loop over entries runs as long as it did the last time and its
// end is foreseen.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/spmm/cpu/csb_engine.h"
#include "ops/spmm/cpu/list_values.h"

namespace rarefy::csb {
namespace {

/// `kRows` visits of `count` entries each, at least one: GCC keeps sums in memory around a loop
/// that may not run.
template <class Vector, int kVectors, int kRows, class Values>
[[gnu::always_inline]] inline void visit(const CsbMatrix::Visit* visits, std::int64_t count,
                                         const std::uint8_t* columns,
                                         const typename Values::Stored* values, const float* panel,
                                         float* all_sums) {
  constexpr std::int64_t kFloats = std::int64_t{16} * kVectors;
  float* out[kRows];
  Vector sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    out[r] = all_sums + visits[r].row * kFloats;
    for (int i = 0; i < kVectors; ++i) sums[r][i] = Vector::load(out[r] + 16 * i);
  }
  std::int64_t e = 0;
  do {
    for (int r = 0; r < kRows; ++r) {
      const float* x = panel + columns[r * count + e] * kFloats;
      const float value = Values::at(values, r * count + e);
      for (int i = 0; i < kVectors; ++i) sums[r][i].add_product(Vector::load(x + 16 * i), value);
    }
  } while (++e < count);
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) sums[r][i].store(out[r] + 16 * i);
  }
}

template <class Vector, int kVectors, class Values>
void visits_of(const Job& job) {
  // One row is a chain of multiply-adds for each vector, too few to hide their latency of 4 cycles
  // at two a cycle.
  constexpr int kRows = std::clamp(Vector::kVisitVectors / kVectors, 1, 4);
  const CsbMatrix::Visit* v = job.visits;
  const CsbMatrix::Visit* const end = v + job.visit_count;
  const std::uint8_t* columns = job.columns;
  const auto* values = static_cast<const typename Values::Stored*>(job.values);
  while (v < end) {
    const std::int64_t count = v->count();
    int rows = 1;
    if (kRows > 1 && end - v >= kRows && v[kRows - 1].last == v->last) {
      visit<Vector, kVectors, kRows, Values>(v, count, columns, values, job.panel, job.sums);
      rows = kRows;
    } else {
      visit<Vector, kVectors, 1, Values>(v, count, columns, values, job.panel, job.sums);
    }
    v += rows;
    columns += rows * count;
    values += rows * count;
  }
}

template <class Vector, class Values>
void visits_of_vectors(const Job& job, int vectors) {
  if (vectors == 1) return visits_of<Vector, 1, Values>(job);
  if (vectors == 2) return visits_of<Vector, 2, Values>(job);
  visits_of<Vector, 4, Values>(job);
}

template <class Vector>
void run(const Job& job, int vectors, DType dtype) {
  if (dtype == DType::kF32) return visits_of_vectors<Vector, F32Values>(job, vectors);
  if (dtype == DType::kF16) return visits_of_vectors<Vector, F16Values<Vector>>(job, vectors);
  visits_of_vectors<Vector, Bf16Values>(job, vectors);
}

}  // namespace
}  // namespace rarefy::csb
