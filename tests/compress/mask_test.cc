#include "compress/mask.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "compress/matrices.h"
#include "rarefy/error.h"

namespace rarefy::compress {
namespace {

constexpr std::int64_t kRows = 24;
constexpr std::int64_t kCols = 48;

/// Scores |v| of a fixed random matrix; coarse ones have many ties.
class MaskTest : public ::testing::Test {
 protected:
  explicit MaskTest() : values_(testing::normal_values(kRows * kCols, 7)) {
    for (float& v : values_) v = std::round(std::fabs(v) * 8);
  }
  [[nodiscard]] ScoreGrid grid() const {
    return {kRows, kCols, [this](std::int64_t row, float* out) {
              std::copy_n(values_.data() + row * kCols, kCols, out);
            }};
  }
  [[nodiscard]] std::vector<std::uint8_t> whole(const Mask& mask) const {
    std::vector<std::uint8_t> pruned(kRows * kCols, 9);
    mask.rows(0, kRows, pruned.data());
    return pruned;
  }
  [[nodiscard]] float score(std::int64_t r, std::int64_t c) const {
    return values_[static_cast<std::size_t>(r * kCols + c)];
  }

  ThreadPool pool_{2};
  std::vector<float> values_;
};

std::int64_t count(const std::vector<std::uint8_t>& pruned) {
  return std::ranges::count(pruned, 1);
}

TEST_F(MaskTest, TensorScopeTakesExactlyTheSmallest) {
  for (const double sparsity : {0.0, 0.013, 0.5, 0.7, 0.999, 1.0}) {
    const std::vector<std::uint8_t> pruned =
        whole(Mask(grid(), {PrunePattern{}, PruneScope::kTensor, sparsity}, pool_));
    EXPECT_EQ(count(pruned), zeros_of(sparsity, kRows * kCols));
    float largest_gone = -1;
    float smallest_kept = 1e9F;
    for (std::size_t i = 0; i < pruned.size(); ++i) {
      if (pruned[i] != 0) largest_gone = std::max(largest_gone, values_[i]);
      if (pruned[i] == 0) smallest_kept = std::min(smallest_kept, values_[i]);
    }
    EXPECT_LE(largest_gone, smallest_kept) << sparsity;
  }
}

TEST_F(MaskTest, RowScopeGivesEveryRowTheSameCount) {
  const std::vector<std::uint8_t> pruned =
      whole(Mask(grid(), {PrunePattern{}, PruneScope::kRow, 0.7}, pool_));
  for (std::int64_t r = 0; r < kRows; ++r) {
    const auto row = pruned.begin() + r * kCols;
    EXPECT_EQ(std::count(row, row + kCols, 1), 34) << r;  // round(33.6)
  }
}

TEST_F(MaskTest, EveryGroupOfNmKeepsItsLargest) {
  for (const auto& [n, m] : {std::pair{2, 4}, {4, 8}, {1, 4}, {3, 4}, {1, 16}, {5, 6}}) {
    const PrunePattern pattern{PrunePattern::Kind::kNm, n, m};
    const std::vector<std::uint8_t> pruned =
        whole(Mask(grid(), {pattern, PruneScope::kTensor, 0}, pool_));
    for (std::int64_t r = 0; r < kRows; ++r) {
      for (std::int64_t g = 0; g < kCols; g += m) {
        std::vector<std::pair<float, std::int64_t>> order;
        for (std::int64_t j = g; j < g + m; ++j) order.emplace_back(score(r, j), j);
        std::sort(order.begin(), order.end());
        for (std::int64_t k = 0; k < m; ++k) {
          const std::int64_t j = order[static_cast<std::size_t>(k)].second;
          EXPECT_EQ(pruned[static_cast<std::size_t>(r * kCols + j)], k < m - n ? 1 : 0)
              << pattern.name() << " " << r << " " << j;
        }
      }
    }
  }
}

TEST_F(MaskTest, BlocksGoWholeAndBySumOfSquares) {
  const PrunePattern pattern{PrunePattern::Kind::kBlock, 4, 8};
  const std::vector<std::uint8_t> pruned =
      whole(Mask(grid(), {pattern, PruneScope::kTensor, 0.6}, pool_));
  double largest_gone = -1;
  double smallest_kept = 1e30;
  std::int64_t gone = 0;
  for (std::int64_t br = 0; br < kRows / 4; ++br) {
    for (std::int64_t bc = 0; bc < kCols / 8; ++bc) {
      const std::uint8_t first = pruned[static_cast<std::size_t>(br * 4 * kCols + bc * 8)];
      double energy = 0;
      for (std::int64_t r = br * 4; r < br * 4 + 4; ++r) {
        for (std::int64_t c = bc * 8; c < bc * 8 + 8; ++c) {
          EXPECT_EQ(pruned[static_cast<std::size_t>(r * kCols + c)], first);
          energy += static_cast<double>(score(r, c)) * score(r, c);
        }
      }
      gone += first;
      if (first != 0) largest_gone = std::max(largest_gone, energy);
      if (first == 0) smallest_kept = std::min(smallest_kept, energy);
    }
  }
  EXPECT_EQ(gone, zeros_of(0.6, 36));
  EXPECT_LE(largest_gone, smallest_kept);
}

TEST_F(MaskTest, RowsOfBlocksCompeteInRowScope) {
  const PrunePattern pattern{PrunePattern::Kind::kBlock, 8, 4};
  const std::vector<std::uint8_t> pruned =
      whole(Mask(grid(), {pattern, PruneScope::kRow, 0.5}, pool_));
  for (std::int64_t r = 0; r < kRows; ++r) {
    const auto row = pruned.begin() + r * kCols;
    EXPECT_EQ(std::count(row, row + kCols, 1), 6 * 4) << r;
  }
}

TEST_F(MaskTest, PartsOfRowsAgreeWithTheWhole) {
  for (const PrunePattern& pattern : {PrunePattern{}, PrunePattern{PrunePattern::Kind::kNm, 2, 4},
                                      PrunePattern{PrunePattern::Kind::kBlock, 4, 4}}) {
    const Mask mask(grid(), {pattern, PruneScope::kTensor, 0.5}, pool_);
    const std::vector<std::uint8_t> all = whole(mask);
    for (std::int64_t r = 0; r < kRows; r += mask.row_step()) {
      std::vector<std::uint8_t> part(static_cast<std::size_t>(mask.row_step() * kCols));
      mask.rows(r, r + mask.row_step(), part.data());
      EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + r * kCols)) << r;
    }
  }
}

TEST_F(MaskTest, RejectsPatternsThatDoNotFit) {
  const auto make = [&](PrunePattern pattern) {
    return Mask(grid(), {pattern, PruneScope::kTensor, 0.5}, pool_);
  };
  EXPECT_THROW(make({PrunePattern::Kind::kNm, 2, 5}), Error);
  EXPECT_THROW(make({PrunePattern::Kind::kBlock, 5, 8}), Error);
  EXPECT_THROW(make({PrunePattern::Kind::kBlock, 8, 5}), Error);
  EXPECT_THROW(Mask(grid(), {PrunePattern{}, PruneScope::kGlobal, 0.5}, pool_), Error);
}

TEST(Mask, AcceptsEmptyMatrices) {
  ThreadPool pool(2);
  for (const auto& [rows, cols] : {std::pair{0, 8}, {8, 0}}) {
    const ScoreGrid none{rows, cols, [](std::int64_t, float*) {}};
    const Mask mask(none, {PrunePattern{}, PruneScope::kTensor, 0.5}, pool);
    std::uint8_t untouched = 7;
    mask.rows(0, rows, &untouched);
    EXPECT_EQ(untouched, 7);
  }
}

}  // namespace
}  // namespace rarefy::compress
