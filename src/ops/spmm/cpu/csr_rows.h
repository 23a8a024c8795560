// CSR rows and row-major blocks times panels, for any instruction set. To be included by ISA files
// only: everything here has internal linkage.
#pragma once

#include <cstdint>

#include "ops/spmm/cpu/csr_engine.h"
#include "ops/spmm/cpu/list_values.h"

namespace rarefy::csr {
namespace {

/// The sums of a row for one panel. With few vectors, products go to two chains in turn: one alone
/// would wait for the latency of the multiply-add.
template <class Vector, int kVectors>
struct RowSums {
  static constexpr int kChains = kVectors < 8 ? 2 : 1;
  static constexpr int kFloats = 16 * kVectors;
  Vector v[kChains][kVectors];

  RowSums(const float* from, bool add) {
    for (int i = 0; i < kVectors; ++i) {
      v[0][i] = add ? Vector::load(from + 16 * i) : Vector::zero();
      if constexpr (kChains == 2) v[1][i] = Vector::zero();
    }
  }
  template <int kEntry>
  void add_product(const float& value, const float* panel_row) {
    for (int i = 0; i < kVectors; ++i)
      v[kEntry % kChains][i].add_product(Vector::load(panel_row + 16 * i), value);
  }
  void store(float* to) {
    for (int i = 0; i < kVectors; ++i) {
      if constexpr (kChains == 2) v[0][i].add(v[1][i]);
      v[0][i].store(to + 16 * i);
    }
  }
};

inline void prefetch(const void* begin, const void* end) {
  const auto* p = static_cast<const char*>(begin);
  for (; p <= static_cast<const char*>(end); p += 64) __builtin_prefetch(p);
}

/// A range takes a few entries of each row, kilobytes apart: no hardware prefetcher follows that.
constexpr std::int64_t kRowsAhead = 6;

template <class Vector, int kVectors, class Values, class Index>
void rows(const Job& job) {
  using Sums = RowSums<Vector, kVectors>;
  const auto* columns = static_cast<const Index*>(job.columns);
  const auto* values = static_cast<const typename Values::Stored*>(job.values);
  float* out = job.sums;
  for (std::int64_t r = job.row_begin; r < job.row_end; ++r, out += Sums::kFloats) {
    std::int64_t& next = job.next[r - job.row_begin];
    if (r + kRowsAhead < job.row_end) {
      const std::int64_t ahead = job.next[r - job.row_begin + kRowsAhead];
      prefetch(columns + ahead, columns + ahead + job.entries_a_row);
      prefetch(values + ahead, values + ahead + job.entries_a_row);
    }
    const std::int64_t end = job.row_offsets[r + 1];
    std::int64_t i = next;
    const auto in_range = [&](std::int64_t entry) {
      return entry < end && static_cast<std::int64_t>(columns[entry]) < job.k_end;
    };
    if (job.add && !in_range(i)) continue;
    Sums sums(out, job.add);
    const auto panel_row = [&](std::int64_t entry) {
      return job.panel + static_cast<std::int64_t>(columns[entry]) * Sums::kFloats;
    };
    for (; in_range(i + 1); i += 2) {
      sums.template add_product<0>(Values::at(values, i), panel_row(i));
      sums.template add_product<1>(Values::at(values, i + 1), panel_row(i + 1));
    }
    if (in_range(i)) {
      sums.template add_product<0>(Values::at(values, i), panel_row(i));
      ++i;
    }
    next = i;
    sums.store(out);
  }
}

template <class Vector, int kVectors, class Values>
void block_rows(const BlockJob& job) {
  using Sums = RowSums<Vector, kVectors>;
  const auto* values = reinterpret_cast<const typename Values::Stored*>(job.values);
  float* out = job.sums;
  for (std::int64_t r = job.row_begin; r < job.row_end; ++r, out += Sums::kFloats) {
    const std::int64_t block_row = r / job.height;
    Sums sums(out, job.add);
    for (std::int64_t b = job.row_offsets[block_row]; b < job.row_offsets[block_row + 1]; ++b) {
      const std::int64_t k = job.columns[b] * job.width;
      if (k < job.k_begin) continue;
      if (k >= job.k_end) break;
      const auto* row = values + (b * job.height + r % job.height) * job.width;
      const float* panel = job.panel + k * Sums::kFloats;
      std::int64_t c = 0;
      for (; c + 2 <= job.width; c += 2, panel += 2 * Sums::kFloats) {
        sums.template add_product<0>(Values::at(row, c), panel);
        sums.template add_product<1>(Values::at(row, c + 1), panel + Sums::kFloats);
      }
      if (c < job.width) sums.template add_product<0>(Values::at(row, c), panel);
    }
    sums.store(out);
  }
}

template <class Vector, int kVectors, class Values>
void rows_of_index(const Job& job, int index_bits) {
  if (index_bits == 16) {
    rows<Vector, kVectors, Values, std::uint16_t>(job);
  } else {
    rows<Vector, kVectors, Values, std::uint32_t>(job);
  }
}

template <class Vector, int kVectors>
void rows_of_dtype(const Job& job, int index_bits, DType dtype) {
  if (dtype == DType::kF32) {
    rows_of_index<Vector, kVectors, F32Values>(job, index_bits);
  } else if (dtype == DType::kF16) {
    rows_of_index<Vector, kVectors, F16Values<Vector>>(job, index_bits);
  } else {
    rows_of_index<Vector, kVectors, Bf16Values>(job, index_bits);
  }
}

template <class Vector, int kVectors>
void block_rows_of_dtype(const BlockJob& job, DType dtype) {
  if (dtype == DType::kF32) {
    block_rows<Vector, kVectors, F32Values>(job);
  } else if (dtype == DType::kF16) {
    block_rows<Vector, kVectors, F16Values<Vector>>(job);
  } else {
    block_rows<Vector, kVectors, Bf16Values>(job);
  }
}

template <class Vector>
void run(const Job& job, int vectors, int index_bits, DType dtype) {
  if (vectors == 1) return rows_of_dtype<Vector, 1>(job, index_bits, dtype);
  if (vectors == 2) return rows_of_dtype<Vector, 2>(job, index_bits, dtype);
  if (vectors == 4) return rows_of_dtype<Vector, 4>(job, index_bits, dtype);
  rows_of_dtype<Vector, 8>(job, index_bits, dtype);
}

template <class Vector>
void run_blocks(const BlockJob& job, int vectors, DType dtype) {
  if (vectors == 1) return block_rows_of_dtype<Vector, 1>(job, dtype);
  if (vectors == 2) return block_rows_of_dtype<Vector, 2>(job, dtype);
  if (vectors == 4) return block_rows_of_dtype<Vector, 4>(job, dtype);
  block_rows_of_dtype<Vector, 8>(job, dtype);
}

}  // namespace
}  // namespace rarefy::csr
