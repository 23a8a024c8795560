#include "formats/hybrid_order.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "formats/panels.h"

namespace rarefy {
namespace {

std::vector<std::int32_t> most_first(const std::vector<std::int64_t>& counts, std::int64_t scope) {
  std::vector<std::int32_t> order(counts.size());
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t begin = 0; begin < std::ssize(order); begin += scope) {
    const auto end = order.begin() + std::min(std::ssize(order), begin + scope);
    std::stable_sort(order.begin() + begin, end, [&](std::int32_t a, std::int32_t b) {
      return counts[static_cast<std::size_t>(a)] > counts[static_cast<std::size_t>(b)];
    });
  }
  return order;
}

}  // namespace

StoredOrder order_by_nonzeros(const RowSource& source, DType dtype, bool rows, std::int64_t scope,
                              bool cols, ThreadPool& pool) {
  StoredOrder order;
  if (!rows && !cols) return order;
  std::vector<std::int64_t> row_counts(static_cast<std::size_t>(source.rows()));
  std::vector<std::atomic<std::int64_t>> col_counts(
      static_cast<std::size_t>(cols ? source.cols() : 0));
  for_each_masked_row(source, dtype, pool, [&](const MaskedRow& row) {
    row_counts[static_cast<std::size_t>(row.row)] = row.nnz;
    for (std::size_t word = 0; word * 64 < col_counts.size(); ++word) {
      for_each_bit(row.masks[word], [&](int bit) {
        col_counts[word * 64 + static_cast<std::size_t>(bit)].fetch_add(1,
                                                                        std::memory_order_relaxed);
      });
    }
  });
  if (rows) order.rows = most_first(row_counts, scope);
  if (cols) order.cols = most_first({col_counts.begin(), col_counts.end()}, source.cols());
  return order;
}

void OrderedSource::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  PanelReader reader(source_, dtype_);
  const std::size_t element = size_of(dtype_);
  const auto width = static_cast<std::size_t>(cols());
  auto* to = static_cast<std::byte*>(out);
  for (std::int64_t r = begin; r < end; ++r, to += width * element) {
    const std::int64_t from = order_.rows.empty() ? r : order_.rows[static_cast<std::size_t>(r)];
    const void* row = reader.read(from, from + 1);
    if (order_.cols.empty()) {
      std::copy_n(static_cast<const std::byte*>(row), width * element, to);
      continue;
    }
    dispatch_bits(dtype_, [&](auto zero) {
      using Bits = decltype(zero);
      const auto* values = static_cast<const Bits*>(row);
      auto* sorted = reinterpret_cast<Bits*>(to);
      for (std::size_t c = 0; c < width; ++c)
        sorted[c] = values[static_cast<std::size_t>(order_.cols[c])];
    });
  }
}

}  // namespace rarefy
