#include "formats/csr.h"

#include <cstring>
#include <utility>

#include "formats/check_arrays.h"
#include "formats/packers.h"

namespace rarefy {
namespace {

template <class Body>
decltype(auto) dispatch_index(int bits, Body&& body) {
  if (bits == 32) return body(std::uint32_t{});
  return body(std::uint16_t{});
}

template <class Bits, class Index>
void fill_row(const MaskedRow& row, std::int64_t words, Index* cols, Bits* values) {
  const auto* from = static_cast<const Bits*>(row.values);
  for (std::int64_t word = 0; word < words; ++word) {
    for_each_bit(row.masks[word], [&](int bit) {
      const std::int64_t k = word * 64 + bit;
      *cols++ = static_cast<Index>(k);
      *values++ = from[k];
    });
  }
}

template <class Index>
void check_columns(const CsrMatrix& a) {
  const std::int64_t* offsets = a.row_offsets();
  const Index* cols = a.col_indices<Index>();
  for (std::int64_t r = 0; r < a.rows(); ++r) {
    std::int64_t last = -1;
    for (std::int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
      if (cols[i] <= last || cols[i] >= a.cols()) {
        fail(ErrorKind::kCorrupt, "{} col_indices[{}] of row {}: expected {} to {}, found {}",
             a.spec().name(), i, r, last + 1, a.cols() - 1, cols[i]);
      }
      last = cols[i];
    }
  }
}

}  // namespace

CsrMatrix::CsrMatrix(const PackedShape& shape, Arrays arrays)
    : PackedMatrix(shape), arrays_(std::move(arrays)) {}

void CsrMatrix::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  if (begin == end || cols() == 0) return;
  std::memset(out, 0, static_cast<std::size_t>((end - begin) * cols()) * size_of(dtype()));
  dispatch_bits(dtype(), [&](auto zero) {
    using Bits = decltype(zero);
    const auto* from = static_cast<const Bits*>(values());
    dispatch_index(spec().index_bits, [&](auto first) {
      const auto* columns = col_indices<decltype(first)>();
      auto* row = static_cast<Bits*>(out);
      for (std::int64_t r = begin; r < end; ++r, row += cols()) {
        for (std::int64_t i = row_offsets()[r]; i < row_offsets()[r + 1]; ++i)
          row[columns[i]] = from[i];
      }
    });
  });
}

std::size_t CsrMatrix::bytes() const {
  return arrays_.row_offsets.size() + arrays_.col_indices.size() + arrays_.values.size();
}

void CsrMatrix::validate() const {
  const std::int64_t stored = check_offsets(*this, "row_offsets", arrays_.row_offsets, rows());
  const auto count = static_cast<std::size_t>(stored);
  const auto index_bytes = static_cast<std::size_t>(spec().index_bits / 8);
  check_size(*this, "col_indices", arrays_.col_indices, count * index_bytes + kTailBytes);
  check_size(*this, "values", arrays_.values, count * size_of(dtype()) + kTailBytes);
  dispatch_index(spec().index_bits, [&](auto first) { check_columns<decltype(first)>(*this); });
  check_nnz(*this, values(), stored);
}

Support can_pack_csr(const FormatSpec& spec, std::int64_t, std::int64_t cols, DType) {
  const std::int64_t reach = std::int64_t{1} << spec.index_bits;
  if (cols > reach)
    return Support::no(fmt::format("{} needs K <= {}, got {}", spec.name(), reach, cols));
  return Support::yes();
}

MatrixPtr pack_csr(const RowSource& source, const FormatSpec& spec, DType dtype, ThreadPool& pool) {
  const std::int64_t rows = source.rows();
  CsrMatrix::Arrays arrays;
  arrays.row_offsets = Buffer(static_cast<std::size_t>(rows + 1) * sizeof(std::int64_t));
  auto* offsets = arrays.row_offsets.as<std::int64_t>();
  for_each_masked_row(source, dtype, pool,
                      [&](const MaskedRow& row) { offsets[row.row + 1] = row.nnz; });
  const std::int64_t nnz = to_offsets(offsets, rows);

  const auto count = static_cast<std::size_t>(nnz);
  arrays.col_indices = buffer_with_tail(count * static_cast<std::size_t>(spec.index_bits / 8));
  arrays.values = buffer_with_tail(count * size_of(dtype));
  const std::int64_t words = (source.cols() + 63) / 64;
  for_each_masked_row(source, dtype, pool, [&](const MaskedRow& row) {
    dispatch_bits(dtype, [&](auto zero) {
      using Bits = decltype(zero);
      dispatch_index(spec.index_bits, [&](auto first) {
        using Index = decltype(first);
        fill_row(row, words, arrays.col_indices.as<Index>() + offsets[row.row],
                 arrays.values.as<Bits>() + offsets[row.row]);
      });
    });
  });
  return std::make_shared<CsrMatrix>(PackedShape{spec, rows, source.cols(), dtype, nnz},
                                     std::move(arrays));
}

}  // namespace rarefy
