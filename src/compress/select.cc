#include "compress/select.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <vector>

#include "base/check.h"

namespace rarefy::compress {
namespace {

constexpr int kHalfBits = 16;
constexpr std::size_t kBins = std::size_t{1} << kHalfBits;
using Histogram = std::vector<std::int64_t>;

/// Scores below this many are counted by one thread: waking others and merging bins costs more.
constexpr std::int64_t kSerialScores = 1 << 15;

/// Calls visit(histogram, key) for every score; sums are of integers, so their order is free.
template <class Visit>
Histogram count_keys(std::span<const ScoreGrid> grids, ThreadPool& pool, Visit visit) {
  Histogram total(kBins);
  for (const ScoreGrid& grid : grids) {
    const auto count_rows = [&](Histogram& bins, std::int64_t begin, std::int64_t end) {
      std::vector<float> scores(static_cast<std::size_t>(grid.cols));
      for (std::int64_t row = begin; row < end; ++row) {
        grid.fill(row, scores.data());
        for (const float score : scores) visit(bins, score_key(score));
      }
    };
    if (grid.rows * grid.cols <= kSerialScores) {
      count_rows(total, 0, grid.rows);
      continue;
    }
    std::mutex merging;
    pool.parallel_for(grid.rows, [&](std::int64_t begin, std::int64_t end) {
      Histogram own(kBins);
      count_rows(own, begin, end);
      const std::scoped_lock lock(merging);
      for (std::size_t i = 0; i < kBins; ++i) total[i] += own[i];
    });
  }
  return total;
}

/// The bin in which the `rank`-th smallest (from 1) lies; `rank` becomes its rank within the bin.
std::uint32_t find_bin(const Histogram& bins, std::int64_t& rank) {
  std::uint32_t bin = 0;
  while (rank > bins[bin]) rank -= bins[bin++];
  return bin;
}

/// Position of the `rank`-th score (from 1) whose key is `key`.
std::int64_t find_tie(std::span<const ScoreGrid> grids, std::uint32_t key, std::int64_t rank) {
  std::int64_t base = 0;
  for (const ScoreGrid& grid : grids) {
    std::vector<float> scores(static_cast<std::size_t>(grid.cols));
    for (std::int64_t row = 0; row < grid.rows; ++row) {
      grid.fill(row, scores.data());
      for (std::int64_t col = 0; col < grid.cols; ++col) {
        if (score_key(scores[static_cast<std::size_t>(col)]) == key && --rank == 0)
          return base + row * grid.cols + col;
      }
    }
    base += grid.rows * grid.cols;
  }
  fail(ErrorKind::kInternal, "selection: a score changed between two reads");
}

}  // namespace

Cut find_cut(std::span<const ScoreGrid> grids, std::int64_t count, ThreadPool& pool) {
  std::int64_t size = 0;
  for (const ScoreGrid& grid : grids) size += grid.rows * grid.cols;
  require(count >= 0 && count <= size, "selection: expected a count from 0 to {}, got {}", size,
          count);
  if (count == 0) return {};
  std::int64_t rank = count;
  const Histogram high =
      count_keys(grids, pool, [](Histogram& bins, std::uint32_t key) { ++bins[key >> kHalfBits]; });
  const std::uint32_t high_bin = find_bin(high, rank);
  const Histogram low = count_keys(grids, pool, [high_bin](Histogram& bins, std::uint32_t key) {
    if (key >> kHalfBits == high_bin) ++bins[key & (kBins - 1)];
  });
  const std::uint32_t low_bin = find_bin(low, rank);
  const std::uint32_t key = (high_bin << kHalfBits) | low_bin;
  if (rank == low[low_bin]) return {key, size};
  return {key, find_tie(grids, key, rank)};
}

void select_smallest(std::span<const float> scores, std::int64_t count,
                     std::span<std::uint64_t> scratch, std::uint8_t* selected) {
  const std::size_t n = scores.size();
  for (std::size_t i = 0; i < n; ++i)
    scratch[i] = (static_cast<std::uint64_t>(score_key(scores[i])) << 32) | i;
  std::fill_n(selected, n, std::uint8_t{0});
  if (count <= 0) return;
  const auto kept =
      scratch.begin() + std::min<std::ptrdiff_t>(count, static_cast<std::ptrdiff_t>(n));
  const auto end = scratch.begin() + static_cast<std::ptrdiff_t>(n);
  if (kept != end) std::nth_element(scratch.begin(), kept, end);
  for (auto it = scratch.begin(); it != kept; ++it) selected[static_cast<std::uint32_t>(*it)] = 1;
}

std::int64_t zeros_of(double sparsity, std::int64_t n) {
  return std::clamp<std::int64_t>(std::llround(sparsity * static_cast<double>(n)), 0, n);
}

}  // namespace rarefy::compress
