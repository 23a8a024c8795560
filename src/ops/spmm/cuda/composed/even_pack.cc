#include "ops/spmm/cuda/composed/even_pack.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace rarefy::gpu {
namespace {

constexpr std::int64_t kMostRows = std::int64_t{1} << 29;

Nonzeros row_of(const CsrMatrix& csr, std::int64_t row) {
  const std::int64_t begin = csr.row_offsets()[row];
  return {begin, csr.row_offsets()[row + 1] - begin};
}

/// The rows of each block, from top to bottom. A row costs its segments and a quarter for itself.
std::vector<std::vector<std::uint32_t>> deal(const std::vector<std::int64_t>& segments,
                                             int blocks) {
  std::vector<std::uint32_t> order(segments.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return segments[a] > segments[b]; });
  std::vector<std::vector<std::uint32_t>> rows(static_cast<std::size_t>(blocks));
  std::vector<std::pair<std::int64_t, std::size_t>> heap;  // Load and block, the lightest on top.
  for (std::size_t b = 0; b < rows.size(); ++b) heap.emplace_back(0, b);
  const auto heavier = [](const auto& a, const auto& b) { return a > b; };
  for (const std::uint32_t row : order) {
    std::pop_heap(heap.begin(), heap.end(), heavier);
    auto& [load, block] = heap.back();
    rows[block].push_back(row);
    load += 4 * segments[row] + 1;
    std::push_heap(heap.begin(), heap.end(), heavier);
  }
  for (std::vector<std::uint32_t>& of_block : rows) std::sort(of_block.begin(), of_block.end());
  return rows;
}

}  // namespace

EvenArrays pack_even(const CsrMatrix& csr, const EvenSpec& spec, ThreadPool& pool) {
  if (csr.rows() >= kMostRows)
    fail(ErrorKind::kUnsupported, "composed: expected fewer than 2^29 rows, got {}", csr.rows());
  std::vector<std::int64_t> segments(static_cast<std::size_t>(csr.rows()));
  pool.parallel_for(csr.rows(), [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t row = from; row < to; ++row) {
      const std::int64_t vectors = count_vectors(csr, row_of(csr, row), spec.format);
      segments[static_cast<std::size_t>(row)] = (vectors + spec.group - 1) / spec.group;
    }
  });
  const std::vector<std::vector<std::uint32_t>> rows = deal(segments, spec.blocks);

  EvenArrays arrays;
  for (const std::vector<std::uint32_t>& of_block : rows) {
    std::int64_t vectors = 0;
    for (const std::uint32_t row : of_block) vectors += segments[row] * spec.group;
    arrays.vectors = std::max(arrays.vectors, vectors);
    arrays.items = std::max(arrays.items, std::ssize(of_block) + 1);
  }
  constexpr std::int64_t kWarp = 32;  // A warp is in or out as a whole.
  arrays.vectors = (arrays.vectors + kWarp - 1) / kWarp * kWarp;
  if (arrays.vectors * spec.blocks > std::numeric_limits<std::uint32_t>::max())
    fail(ErrorKind::kUnsupported, "composed: {} nonzeros are too many", csr.entries());

  for (std::size_t block = 0; block < rows.size(); ++block) {
    std::int64_t at = static_cast<std::int64_t>(block) * arrays.vectors;
    for (const std::uint32_t row : rows[block]) {
      arrays.begin.push_back(static_cast<std::uint32_t>(at));
      arrays.target.push_back(row);
      at += segments[row] * spec.group;
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
