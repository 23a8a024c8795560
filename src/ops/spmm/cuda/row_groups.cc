#include "ops/spmm/cuda/row_groups.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace rarefy::gpu {

int resident_clusters(int multiprocessors, int split) {
  const int lost = split <= 2 ? 0 : multiprocessors / 11;
  return std::max(1, (multiprocessors - lost) / split);
}

std::vector<std::int32_t> deal_row_groups(const CsrMatrix& csr, int rows, int tiles, int room) {
  const std::int64_t count = (csr.rows() + rows - 1) / rows;
  if (count > std::int64_t{tiles} * room)
    fail(ErrorKind::kInternal, "{} groups of {} rows do not fit in {} tiles of {}", count, rows,
         tiles, room);
  const auto entries = [&](std::int64_t g) {
    return csr.row_offsets()[std::min(csr.rows(), (g + 1) * rows)] - csr.row_offsets()[g * rows];
  };
  std::vector<std::int32_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return entries(a) > entries(b); });
  const auto stride = static_cast<std::size_t>(room);
  std::vector<std::int32_t> groups(static_cast<std::size_t>(tiles) * stride, -1);
  std::vector<std::size_t> filled(static_cast<std::size_t>(tiles), 0);
  std::vector<std::pair<std::int64_t, std::size_t>> heap;  // Load and tile, the lightest on top.
  for (std::size_t t = 0; t < filled.size(); ++t) heap.emplace_back(0, t);
  const auto heavier = [](const auto& a, const auto& b) { return a > b; };
  for (const std::int32_t g : order) {
    std::pop_heap(heap.begin(), heap.end(), heavier);
    auto& [load, tile] = heap.back();
    groups[tile * stride + filled[tile]] = g * rows;
    load += entries(g) + 1;
    if (++filled[tile] == stride) {
      heap.pop_back();
    } else {
      std::push_heap(heap.begin(), heap.end(), heavier);
    }
  }
  // In a tile from top to bottom: neighbours are stored together.
  for (std::size_t t = 0; t < filled.size(); ++t) {
    const auto begin = groups.begin() + static_cast<std::ptrdiff_t>(t * stride);
    std::sort(begin, begin + static_cast<std::ptrdiff_t>(filled[t]));
  }
  return groups;
}

}  // namespace rarefy::gpu
