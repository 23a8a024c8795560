#include "ops/sddmm/places.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "formats/bsr.h"
#include "formats/csr.h"
#include "formats/panels.h"

namespace rarefy {
namespace {

/// Calls body(first column, last column) for the stored blocks of a block row, cut off at K.
template <class Body>
void for_each_block(const Bsr& a, std::int64_t block_row, Body&& body) {
  for (std::int64_t i = a.row_offsets()[block_row]; i < a.row_offsets()[block_row + 1]; ++i) {
    const std::int64_t begin = a.columns()[i] * a.block_cols();
    body(i, begin, std::min(a.cols(), begin + a.block_cols()));
  }
}

Places places_of_csr(const CsrMatrix& a, ThreadPool& pool) {
  if (a.spec().index_bits == 32) {
    Places places;
    places.lender = &a;
    return places;
  }
  const std::int64_t* offsets = a.row_offsets();
  return make_places(
      a.rows(), pool, [&](std::int64_t r) { return offsets[r + 1] - offsets[r]; },
      [&](std::int64_t r, std::uint32_t* out) {
        const auto* from = a.col_indices<std::uint16_t>();
        std::copy(from + offsets[r], from + offsets[r + 1], out);
      });
}

Places places_of_bsr(const Bsr& a, ThreadPool& pool) {
  return make_places(
      a.rows(), pool,
      [&](std::int64_t r) {
        std::int64_t count = 0;
        for_each_block(
            a, r / a.block_rows(),
            [&](std::int64_t, std::int64_t begin, std::int64_t end) { count += end - begin; });
        return count;
      },
      [&](std::int64_t r, std::uint32_t* out) {
        for_each_block(a, r / a.block_rows(),
                       [&](std::int64_t, std::int64_t begin, std::int64_t end) {
                         std::iota(out, out + (end - begin), static_cast<std::uint32_t>(begin));
                         out += end - begin;
                       });
      });
}

Places all_places(const Matrix& a, ThreadPool& pool) {
  return make_places(
      a.rows(), pool, [&](std::int64_t) { return a.cols(); },
      [&](std::int64_t, std::uint32_t* out) { std::iota(out, out + a.cols(), 0U); });
}

/// The same blocks with new values. A value's place in its block is where pack_bsr puts it.
template <class Value>
MatrixPtr bsr_with_values(const Bsr& a, const Places& places, const float* values,
                          ThreadPool& pool) {
  Bsr::Arrays arrays;
  const std::int64_t grid_rows = a.grid_rows();
  const std::int64_t blocks = a.row_offsets()[grid_rows];
  arrays.row_offsets.assign(a.row_offsets(), a.row_offsets() + grid_rows + 1);
  arrays.columns.assign(a.columns(), a.columns() + blocks);
  arrays.values = Buffer::zeros(static_cast<std::size_t>(blocks) * a.block_bytes());
  auto* out = arrays.values.as<Value>();
  const std::int64_t block_size = a.block_rows() * a.block_cols();
  const std::int64_t pair = strip_pair(a.dtype());
  const auto place_in_block = [&](std::int64_t r, std::int64_t c) {
    if (!a.in_strips()) return r * a.block_cols() + c;
    return r / kStripRows * kStripRows * a.block_cols() + strip_index(r % kStripRows, c, pair);
  };
  std::atomic<std::int64_t> nnz{0};
  pool.parallel_for(a.rows(), [&](std::int64_t row_begin, std::int64_t row_end) {
    std::int64_t found = 0;
    for (std::int64_t r = row_begin; r < row_end; ++r) {
      const float* from = values + places.offsets()[r];
      for_each_block(a, r / a.block_rows(),
                     [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
                       for (std::int64_t c = 0; c < end - begin; ++c) {
                         // x + 0 turns -0 into +0, as packing does.
                         const Value value = convert<Value>(*from++ + 0.0F);
                         found += to_float(value) != 0 ? 1 : 0;
                         out[i * block_size + place_in_block(r % a.block_rows(), c)] = value;
                       }
                     });
    }
    nnz += found;
  });
  return std::make_shared<Bsr>(a.rows(), a.cols(), a.dtype(), a.spec(), nnz.load(),
                               std::move(arrays));
}

/// CSR with the places of `pattern`, in columns of `index_bits`.
MatrixPtr csr_with_values(const Matrix& pattern, const FormatSpec& spec, const Places& places,
                          const float* values, ThreadPool& pool) {
  const std::int64_t rows = pattern.rows();
  const std::int64_t count = places.offsets()[rows];
  const std::size_t element = size_of(pattern.dtype());
  CsrMatrix::Arrays arrays;
  const std::size_t offsets_bytes = static_cast<std::size_t>(rows + 1) * sizeof(std::int64_t);
  arrays.row_offsets = Buffer(offsets_bytes);
  std::memcpy(arrays.row_offsets.data(), places.offsets(), offsets_bytes);
  const auto entries = static_cast<std::size_t>(count);
  arrays.col_indices = buffer_with_tail(entries * static_cast<std::size_t>(spec.index_bits / 8));
  arrays.values = buffer_with_tail(entries * element);
  std::atomic<std::int64_t> nnz{0};
  pool.parallel_for(count, [&](std::int64_t begin, std::int64_t end) {
    const std::uint32_t* first = places.column() + begin;
    const std::uint32_t* last = places.column() + end;
    if (spec.index_bits == 16) {
      std::transform(first, last, arrays.col_indices.as<std::uint16_t>() + begin,
                     [](std::uint32_t c) { return static_cast<std::uint16_t>(c); });
    } else {
      std::copy(first, last, arrays.col_indices.as<std::uint32_t>() + begin);
    }
    std::byte* to = arrays.values.data() + static_cast<std::size_t>(begin) * element;
    convert_elements(values + begin, DType::kF32, to, pattern.dtype(),
                     static_cast<std::size_t>(end - begin));
    nnz += count_nonzeros(to, pattern.dtype(), end - begin);
  });
  return std::make_shared<CsrMatrix>(
      PackedShape{spec, rows, pattern.cols(), pattern.dtype(), nnz.load()}, std::move(arrays));
}

}  // namespace

Places places_of(const Matrix& pattern, ThreadPool& pool) {
  constexpr std::int64_t kMostColumns = std::int64_t{1} << 32;
  if (pattern.cols() > kMostColumns)
    fail(ErrorKind::kUnsupported, "sddmm: expected K <= {}, got {}", kMostColumns, pattern.cols());
  switch (pattern.spec().format) {
    case Format::kCsr:
      return places_of_csr(dynamic_cast<const CsrMatrix&>(pattern), pool);
    case Format::kBsr:
      return places_of_bsr(dynamic_cast<const Bsr&>(pattern), pool);
    case Format::kDense:
      return all_places(pattern, pool);
    default: {
      MatrixPtr csr = pack(pattern, format::kCsr32, pool);
      Places places = places_of_csr(dynamic_cast<const CsrMatrix&>(*csr), pool);
      places.packed = std::move(csr);
      return places;
    }
  }
}

MatrixPtr with_values(const Matrix& pattern, const Places& places, const float* values,
                      ThreadPool& pool) {
  const FormatSpec& spec = pattern.spec();
  if (spec.format == Format::kBsr) {
    return dispatch_dtype(pattern.dtype(), [&](auto zero) {
      return bsr_with_values<decltype(zero)>(dynamic_cast<const Bsr&>(pattern), places, values,
                                             pool);
    });
  }
  if (spec.format == Format::kCsr) return csr_with_values(pattern, spec, places, values, pool);
  return pack(*csr_with_values(pattern, format::kCsr32, places, values, pool), spec, pool);
}

}  // namespace rarefy
