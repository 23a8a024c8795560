#include "compress/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "compress/matrices.h"
#include "rarefy/error.h"

namespace rarefy::compress {
namespace {

/// Rows of `cols` scores each, borrowed.
ScoreGrid grid_of(const std::vector<float>& scores, std::int64_t cols) {
  return {static_cast<std::int64_t>(scores.size()) / cols, cols,
          [&scores, cols](std::int64_t row, float* out) {
            std::copy_n(scores.data() + row * cols, cols, out);
          }};
}

/// The selection by sorting: positions of the `count` smallest, stable.
std::vector<bool> selected_by_sorting(const std::vector<float>& scores, std::int64_t count) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
  std::vector<bool> selected(scores.size());
  for (std::int64_t i = 0; i < count; ++i) selected[order[static_cast<std::size_t>(i)]] = true;
  return selected;
}

std::vector<bool> selected_by_cut(const std::vector<float>& scores, const Cut& cut,
                                  std::int64_t base = 0) {
  std::vector<bool> selected(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i)
    selected[i] = cut.selects(score_key(scores[i]), base + static_cast<std::int64_t>(i));
  return selected;
}

std::vector<float> magnitudes(std::int64_t count, std::uint64_t seed) {
  std::vector<float> scores = testing::normal_values(count, seed);
  for (float& s : scores) s = std::fabs(s);
  return scores;
}

TEST(FindCut, AgreesWithSortingForEveryCount) {
  ThreadPool pool(3);
  const std::vector<float> scores = magnitudes(60, 1);
  const ScoreGrid grid = grid_of(scores, 12);
  for (std::int64_t count = 0; count <= 60; ++count) {
    EXPECT_EQ(selected_by_cut(scores, find_cut({&grid, 1}, count, pool)),
              selected_by_sorting(scores, count))
        << count;
  }
}

TEST(FindCut, TakesTiesByPosition) {
  ThreadPool pool(2);
  std::vector<float> scores(40);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i % 3);
  const ScoreGrid grid = grid_of(scores, 8);
  for (std::int64_t count = 0; count <= 40; ++count) {
    EXPECT_EQ(selected_by_cut(scores, find_cut({&grid, 1}, count, pool)),
              selected_by_sorting(scores, count))
        << count;
  }
}

TEST(FindCut, OrdersTinyHugeAndInfiniteScores) {
  ThreadPool pool(2);
  const std::vector<float> scores{std::numeric_limits<float>::infinity(),
                                  std::numeric_limits<float>::denorm_min(),
                                  0.0F,
                                  -0.0F,
                                  std::numeric_limits<float>::max(),
                                  1.0F,
                                  std::nextafter(1.0F, 2.0F),
                                  std::numeric_limits<float>::min()};
  const ScoreGrid grid = grid_of(scores, 4);
  for (std::int64_t count = 0; count <= 8; ++count) {
    EXPECT_EQ(selected_by_cut(scores, find_cut({&grid, 1}, count, pool)),
              selected_by_sorting(scores, count))
        << count;
  }
}

TEST(FindCut, CountsOnThroughSeveralGrids) {
  ThreadPool pool(2);
  std::vector<float> all = magnitudes(50, 2);
  std::fill(all.begin() + 10, all.begin() + 35, 0.25F);  // Ties across the border of the grids.
  const std::vector<float> first(all.begin(), all.begin() + 20);
  const std::vector<float> second(all.begin() + 20, all.end());
  const std::vector<ScoreGrid> grids{grid_of(first, 5), grid_of(second, 10)};
  for (std::int64_t count = 0; count <= 50; ++count) {
    const Cut cut = find_cut(grids, count, pool);
    std::vector<bool> selected = selected_by_cut(first, cut);
    const std::vector<bool> rest = selected_by_cut(second, cut, 20);
    selected.insert(selected.end(), rest.begin(), rest.end());
    EXPECT_EQ(selected, selected_by_sorting(all, count)) << count;
  }
}

TEST(FindCut, IsTheSameForAnyNumberOfThreads) {
  // Above the size that one thread counts alone, coarse values for many ties.
  std::vector<float> scores = magnitudes(40000, 3);
  for (float& s : scores) s = std::round(s * 64);
  const ScoreGrid grid = grid_of(scores, 100);
  ThreadPool one(1);
  const Cut expected = find_cut({&grid, 1}, 23456, one);
  EXPECT_EQ(std::ranges::count(selected_by_cut(scores, expected), true), 23456);
  for (const int threads : {2, 3, 5}) {
    ThreadPool pool(threads);
    const Cut cut = find_cut({&grid, 1}, 23456, pool);
    EXPECT_EQ(cut.key, expected.key);
    EXPECT_EQ(cut.position, expected.position);
  }
}

TEST(FindCut, RejectsCountsBeyondTheGrid) {
  ThreadPool pool(1);
  const std::vector<float> scores(6, 1.0F);
  const ScoreGrid grid = grid_of(scores, 3);
  EXPECT_THROW(find_cut({&grid, 1}, 7, pool), Error);
  EXPECT_THROW(find_cut({&grid, 1}, -1, pool), Error);
}

TEST(SelectSmallest, AgreesWithSorting) {
  std::vector<float> scores = magnitudes(37, 4);
  scores[5] = scores[6] = scores[30] = 0.5F;
  std::vector<std::uint64_t> scratch(scores.size());
  for (std::int64_t count = 0; count <= 37; ++count) {
    std::vector<std::uint8_t> selected(scores.size(), 9);
    select_smallest(scores, count, scratch, selected.data());
    const std::vector<bool> expected = selected_by_sorting(scores, count);
    for (std::size_t i = 0; i < scores.size(); ++i)
      EXPECT_EQ(selected[i], expected[i] ? 1 : 0) << count << " " << i;
  }
}

TEST(ZerosOf, RoundsToNearest) {
  EXPECT_EQ(zeros_of(0.5, 7), 4);  // 3.5, halves up
  EXPECT_EQ(zeros_of(0.7, 192), 134);
  EXPECT_EQ(zeros_of(0.0, 10), 0);
  EXPECT_EQ(zeros_of(1.0, 10), 10);
  EXPECT_EQ(zeros_of(0.9, 0), 0);
}

}  // namespace
}  // namespace rarefy::compress
