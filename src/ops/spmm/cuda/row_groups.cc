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

std::vector<std::vector<std::int32_t>> deal(std::span<const std::int64_t> loads, int bins,
                                            std::int64_t room) {
  std::vector<std::int32_t> order(loads.size());
  std::iota(order.begin(), order.end(), 0);
  const auto load_of = [&](std::int32_t i) { return loads[static_cast<std::size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return load_of(a) > load_of(b); });
  std::vector<std::vector<std::int32_t>> items(static_cast<std::size_t>(bins));
  std::vector<std::pair<std::int64_t, std::size_t>> heap;  // Load and bin, the lightest on top.
  for (std::size_t bin = 0; bin < items.size(); ++bin) heap.emplace_back(0, bin);
  const auto heavier = [](const auto& a, const auto& b) { return a > b; };
  for (const std::int32_t i : order) {
    std::pop_heap(heap.begin(), heap.end(), heavier);
    auto& [load, bin] = heap.back();
    items[bin].push_back(i);
    load += load_of(i);
    if (std::ssize(items[bin]) == room) {
      heap.pop_back();
    } else {
      std::push_heap(heap.begin(), heap.end(), heavier);
    }
  }
  for (std::vector<std::int32_t>& of_bin : items) std::sort(of_bin.begin(), of_bin.end());
  return items;
}

std::vector<std::int32_t> deal_row_groups(const CsrMatrix& csr, int rows, int tiles, int room) {
  const std::int64_t count = (csr.rows() + rows - 1) / rows;
  if (count > std::int64_t{tiles} * room)
    fail(ErrorKind::kInternal, "{} groups of {} rows do not fit in {} tiles of {}", count, rows,
         tiles, room);
  std::vector<std::int64_t> loads;  // Entries, and one for a group itself.
  for (std::int64_t g = 0; g < count; ++g)
    loads.push_back(csr.row_offsets()[std::min(csr.rows(), (g + 1) * rows)] -
                    csr.row_offsets()[g * rows] + 1);
  const auto stride = static_cast<std::size_t>(room);
  std::vector<std::int32_t> groups(static_cast<std::size_t>(tiles) * stride, -1);
  const std::vector<std::vector<std::int32_t>> dealt = deal(loads, tiles, room);
  for (std::size_t tile = 0; tile < dealt.size(); ++tile)  // Neighbours are stored together.
    for (std::size_t i = 0; i < dealt[tile].size(); ++i)
      groups[tile * stride + i] = dealt[tile][i] * rows;
  return groups;
}

}  // namespace rarefy::gpu
