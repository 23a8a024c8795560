#include "compress/mask.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/check.h"

namespace rarefy::compress {

ScoreGrid block_scores(const ScoreGrid& scores, const PrunePattern& pattern) {
  const std::int64_t height = pattern.a;
  const std::int64_t width = pattern.b;
  const auto fill = [scores, height, width](std::int64_t block_row, float* out) {
    const std::int64_t blocks = scores.cols / width;
    std::vector<float> row(static_cast<std::size_t>(scores.cols));
    std::vector<double> sums(static_cast<std::size_t>(blocks));
    for (std::int64_t r = block_row * height; r < (block_row + 1) * height; ++r) {
      scores.fill(r, row.data());
      for (std::int64_t b = 0; b < blocks; ++b) {
        double sum = 0;
        for (const float s : std::span(row).subspan(b * width, width))
          sum += static_cast<double>(s) * s;
        sums[static_cast<std::size_t>(b)] += sum;
      }
    }
    std::transform(sums.begin(), sums.end(), out, [](double s) { return static_cast<float>(s); });
  };
  return {scores.rows / height, scores.cols / width, fill};
}

void select_nm(const float* scores, std::int64_t cols, std::int64_t n, std::int64_t m,
               std::uint8_t* pruned) {
  std::fill_n(pruned, cols, std::uint8_t{0});
  for (std::int64_t group = 0; group < cols; group += m) {
    for (std::int64_t gone = 0; gone < m - n; ++gone) {
      std::int64_t smallest = -1;
      for (std::int64_t j = group; j < group + m; ++j) {
        if (pruned[j] == 0 && (smallest < 0 || scores[j] < scores[smallest])) smallest = j;
      }
      pruned[smallest] = 1;
    }
  }
}

Mask::Mask(ScoreGrid scores, const MaskRule& rule, ThreadPool& pool)
    : scores_(std::move(scores)),
      pattern_(rule.pattern),
      by_row_(rule.scope == PruneScope::kRow),
      sparsity_(rule.sparsity) {
  require(rule.scope == PruneScope::kTensor || rule.scope == PruneScope::kRow,
          "mask: expected scope tensor or row, got {}", to_string(rule.scope));
  const Support fits = pattern_.fits(scores_.rows, scores_.cols);
  require(fits.ok, "mask: {}", fits.reason);
  if (pattern_.kind == PrunePattern::Kind::kNm) return;
  const bool blocked = pattern_.kind == PrunePattern::Kind::kBlock;
  if (blocked) blocks_ = block_scores(scores_, pattern_);
  if (by_row_) return;
  const ScoreGrid& grid = blocked ? blocks_ : scores_;
  cut_ = find_cut({&grid, 1}, zeros_of(sparsity_, grid.rows * grid.cols), pool);
}

Mask::Mask(ScoreGrid scores, const PrunePattern& pattern, const Cut& cut, std::int64_t base)
    : scores_(std::move(scores)), pattern_(pattern), cut_(cut), base_(base) {
  if (pattern_.kind == PrunePattern::Kind::kBlock) blocks_ = block_scores(scores_, pattern_);
}

std::int64_t Mask::row_step() const {
  return pattern_.kind == PrunePattern::Kind::kBlock ? pattern_.a : 1;
}

void Mask::rows(std::int64_t begin, std::int64_t end, std::uint8_t* pruned) const {
  const std::int64_t step = row_step();
  for (std::int64_t row = begin; row < end; row += step, pruned += step * scores_.cols) {
    switch (pattern_.kind) {
      case PrunePattern::Kind::kUnstructured:
        mark(scores_, row, pruned);
        break;
      case PrunePattern::Kind::kNm:
        nm_row(row, pruned);
        break;
      case PrunePattern::Kind::kBlock:
        block_row(row / step, pruned);
        break;
    }
  }
}

void Mask::mark(const ScoreGrid& grid, std::int64_t row, std::uint8_t* pruned) const {
  const auto cols = static_cast<std::size_t>(grid.cols);
  std::vector<float> scores(cols);
  grid.fill(row, scores.data());
  if (by_row_) {
    std::vector<std::uint64_t> scratch(cols);
    select_smallest(scores, zeros_of(sparsity_, grid.cols), scratch, pruned);
    return;
  }
  const std::int64_t first = base_ + row * grid.cols;
  for (std::size_t c = 0; c < cols; ++c) {
    pruned[c] = cut_.selects(score_key(scores[c]), first + static_cast<std::int64_t>(c)) ? 1 : 0;
  }
}

void Mask::nm_row(std::int64_t row, std::uint8_t* pruned) const {
  std::vector<float> scores(static_cast<std::size_t>(scores_.cols));
  scores_.fill(row, scores.data());
  select_nm(scores.data(), scores_.cols, pattern_.a, pattern_.b, pruned);
}

void Mask::block_row(std::int64_t row, std::uint8_t* pruned) const {
  std::vector<std::uint8_t> gone(static_cast<std::size_t>(blocks_.cols));
  mark(blocks_, row, gone.data());
  for (std::int64_t b = 0; b < blocks_.cols; ++b)
    std::fill_n(pruned + b * pattern_.b, pattern_.b, gone[static_cast<std::size_t>(b)]);
  for (std::int64_t r = 1; r < pattern_.a; ++r)
    std::copy_n(pruned, scores_.cols, pruned + r * scores_.cols);
}

}  // namespace rarefy::compress
