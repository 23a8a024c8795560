#include "ops/spmm/cuda/composed/even_pack.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "ops/spmm/cuda/row_groups.h"

namespace rarefy::gpu {
namespace {

constexpr std::int64_t kMostRows = std::int64_t{1} << 29;

Nonzeros row_of(const CsrMatrix& csr, std::int64_t row) {
  const std::int64_t begin = csr.row_offsets()[row];
  return {begin, csr.row_offsets()[row + 1] - begin};
}

}  // namespace

EvenArrays pack_even(const CsrMatrix& csr, const EvenSpec& spec, ThreadPool& pool) {
  if (csr.rows() >= kMostRows)
    fail(ErrorKind::kUnsupported, "composed: expected fewer than 2^29 rows, got {}", csr.rows());
  // Of each row: segments, and what it costs a block, a quarter of one more for itself.
  std::vector<std::int64_t> segments(static_cast<std::size_t>(csr.rows())), loads(segments.size());
  pool.parallel_for(csr.rows(), [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t row = from; row < to; ++row) {
      const auto i = static_cast<std::size_t>(row);
      const std::int64_t vectors = count_vectors(csr, row_of(csr, row), spec.format);
      segments[i] = (vectors + spec.group - 1) / spec.group;
      loads[i] = 4 * segments[i] + 1;
    }
  });
  const std::vector<std::vector<std::int32_t>> rows = deal(loads, spec.blocks, csr.rows());
  const auto vectors_of = [&](std::int32_t row) {
    return segments[static_cast<std::size_t>(row)] * spec.group;
  };

  EvenArrays arrays;
  for (const std::vector<std::int32_t>& of_block : rows) {
    std::int64_t vectors = 0;
    for (const std::int32_t row : of_block) vectors += vectors_of(row);
    arrays.vectors = std::max(arrays.vectors, vectors);
    arrays.items = std::max(arrays.items, std::ssize(of_block) + 1);
  }
  constexpr std::int64_t kWarp = 32;  // A warp is in or out as a whole.
  arrays.vectors = (arrays.vectors + kWarp - 1) / kWarp * kWarp;
  if (arrays.vectors * spec.blocks > std::numeric_limits<std::uint32_t>::max())
    fail(ErrorKind::kUnsupported, "composed: {} nonzeros are too many", csr.entries());

  for (std::size_t block = 0; block < rows.size(); ++block) {
    std::int64_t at = static_cast<std::int64_t>(block) * arrays.vectors;
    for (const std::int32_t row : rows[block]) {
      arrays.begin.push_back(static_cast<std::uint32_t>(at));
      arrays.target.push_back(static_cast<std::uint32_t>(row));
      at += vectors_of(row);
    }
    const auto items = (block + 1) * static_cast<std::size_t>(arrays.items);
    arrays.begin.resize(items, static_cast<std::uint32_t>(at));
    arrays.target.resize(items, kEvenNoRow);
  }
  const auto all = static_cast<std::size_t>(arrays.vectors * spec.blocks);
  arrays.begin.push_back(static_cast<std::uint32_t>(all));

  const std::size_t column_bytes = spec.format.column_bytes();
  const std::size_t value_bytes = static_cast<std::size_t>(spec.format.vec) * size_of(csr.dtype());
  arrays.columns.resize(all * column_bytes);
  arrays.values.resize(all * value_bytes);
  constexpr std::int64_t kGrain = 64;
  pool.parallel_dynamic(std::ssize(arrays.target), kGrain, [&](std::int64_t from, std::int64_t to) {
    for (auto i = static_cast<std::size_t>(from); i < static_cast<std::size_t>(to); ++i) {
      const std::size_t begin = arrays.begin[i], end = arrays.begin[i + 1];
      if (arrays.target[i] == kEvenNoRow || begin == end) continue;
      write_vectors(
          csr, row_of(csr, arrays.target[i]), spec.format, static_cast<std::int64_t>(end - begin),
          arrays.columns.data() + begin * column_bytes, arrays.values.data() + begin * value_bytes);
    }
  });
  return arrays;
}

}  // namespace rarefy::gpu
