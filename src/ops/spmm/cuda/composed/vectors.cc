#include "ops/spmm/cuda/composed/vectors.h"

#include <algorithm>

namespace rarefy::gpu {
namespace {

/// The longest step of a delta vector, and its nonzeros.
constexpr std::uint32_t kLongestStep = 63;
constexpr std::int64_t kDeltaVector = 8;

/// Calls `emit(column, index of the nonzero, or -1 for a zero between)` for what a delta run
/// stores.
template <class Emit>
void walk_delta(const std::uint32_t* columns, const Nonzeros& run, const Emit& emit) {
  std::int64_t stored = 0;
  std::uint32_t last = 0;
  for (std::int64_t j = run.begin; j < run.begin + run.count; ++j) {
    while (stored % kDeltaVector != 0 && columns[j] - last > kLongestStep) {
      last += kLongestStep;
      emit(last, -1);
      ++stored;
    }
    last = columns[j];
    emit(last, j);
    ++stored;
  }
}

template <class Bits>
void write_delta(const CsrMatrix& csr, const Nonzeros& run, std::int64_t vectors,
                 std::uint64_t* words, Bits* values) {
  const auto* from = static_cast<const Bits*>(csr.values());
  std::fill_n(words, vectors, 0);
  std::int64_t at = 0;
  std::uint32_t last = 0;
  walk_delta(csr.col_indices<std::uint32_t>(), run, [&](std::uint32_t column, std::int64_t j) {
    std::uint64_t& word = words[at / kDeltaVector];
    const std::int64_t i = at % kDeltaVector;
    if (i == 0) {
      word = column;
    } else {
      // Two steps in the low word behind the column, five in the high word.
      word |= std::uint64_t{column - last} << (i < 3 ? 10 + 6 * i : 14 + 6 * i);
    }
    values[at++] = j >= 0 ? from[j] : Bits{};
    last = column;
  });
  std::fill(words + (at + kDeltaVector - 1) / kDeltaVector, words + vectors, last);
  std::fill(values + at, values + vectors * kDeltaVector, Bits{});
}

template <class Index, class Bits>
void write_csr(const CsrMatrix& csr, const Nonzeros& run, std::int64_t entries, bool swizzled,
               Index* columns, Bits* values) {
  const auto* from_columns = csr.col_indices<std::uint32_t>();
  const auto* from_values = static_cast<const Bits*>(csr.values());
  for (std::int64_t j = 0; j < entries; ++j) {
    const bool real = j < run.count;
    const std::uint32_t column = from_columns[run.begin + (real ? j : run.count - 1)];
    columns[j] = static_cast<Index>(swizzled ? column ^ (column >> 3 & 7) : column);
    values[j] = real ? from_values[run.begin + j] : Bits{};
  }
}

template <class Bits>
void write(const CsrMatrix& csr, const Nonzeros& run, const VectorFormat& format,
           std::int64_t vectors, std::byte* columns, Bits* values) {
  const std::int64_t entries = vectors * format.vec;
  if (format.delta()) {
    write_delta(csr, run, vectors, reinterpret_cast<std::uint64_t*>(columns), values);
  } else if (format.index_bits == 16) {
    write_csr(csr, run, entries, format.swizzled, reinterpret_cast<std::uint16_t*>(columns),
              values);
  } else {
    write_csr(csr, run, entries, format.swizzled, reinterpret_cast<std::uint32_t*>(columns),
              values);
  }
}

}  // namespace

std::int64_t count_vectors(const CsrMatrix& csr, const Nonzeros& run, const VectorFormat& format) {
  std::int64_t entries = run.count;
  if (format.delta()) {
    entries = 0;
    walk_delta(csr.col_indices<std::uint32_t>(), run,
               [&](std::uint32_t, std::int64_t) { ++entries; });
  }
  return (entries + format.vec - 1) / format.vec;
}

void write_vectors(const CsrMatrix& csr, const Nonzeros& run, const VectorFormat& format,
                   std::int64_t vectors, std::byte* columns, std::byte* values) {
  if (size_of(csr.dtype()) == 4) {
    write(csr, run, format, vectors, columns, reinterpret_cast<std::uint32_t*>(values));
  } else {
    write(csr, run, format, vectors, columns, reinterpret_cast<std::uint16_t*>(values));
  }
}

}  // namespace rarefy::gpu
