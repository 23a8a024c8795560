// From scores to a mask: unstructured, N:M or blocks; one tensor, or row by row.
#pragma once

#include <cstdint>
#include <vector>

#include "compress/select.h"
#include "rarefy/compress.h"
#include "rarefy/threads.h"

namespace rarefy::compress {

/// What a mask must satisfy.
struct MaskRule {
  PrunePattern pattern;
  PruneScope scope =
      PruneScope::kTensor;  ///< kTensor or kRow; for blocks a row is a row of blocks.
  double sparsity = 0.5;
};

/// Scores of the blocks of `pattern`: the sum of squares of the scores inside, in double.
/// Squaring makes the block's magnitude score its energy, and SparseGPT's the sum of its losses.
ScoreGrid block_scores(const ScoreGrid& scores, const PrunePattern& pattern);

/// The weights of one matrix that go. Of a group of n (all weights, a row, or whole blocks) exactly
/// round(sparsity·n) go, those with the smallest scores, the earlier position first among equals;
/// of every m columns of N:M, m-n.
class Mask {
 public:
  /// @param scores M×K, must stay valid. Finds the cut of kTensor at once; rows and N:M groups are
  /// decided when read.
  Mask(ScoreGrid scores, const MaskRule& rule, ThreadPool& pool);
  /// A mask whose cut was found elsewhere (over several tensors), `base` being the position of this
  /// tensor's first score or block score.
  Mask(ScoreGrid scores, const PrunePattern& pattern, const Cut& cut, std::int64_t base);

  /// Rows that are decided together: the height of a block, else 1.
  [[nodiscard]] std::int64_t row_step() const;

  /// Writes 1 for each weight of rows [begin, end) that goes and 0 for each that stays, row by row,
  /// K a row. begin and end must be multiples of row_step(). May be called from many threads.
  void rows(std::int64_t begin, std::int64_t end, std::uint8_t* pruned) const;

 private:
  void nm_row(std::int64_t row, std::uint8_t* pruned) const;
  void block_row(std::int64_t block_row, std::uint8_t* pruned) const;
  void mark(const ScoreGrid& grid, std::int64_t row, std::uint8_t* pruned) const;

  ScoreGrid scores_, blocks_;
  PrunePattern pattern_;
  bool by_row_ = false;
  double sparsity_ = 0;
  Cut cut_;
  std::int64_t base_ = 0;
};

/// Marks the m-n smallest of each m scores, the earlier first among equals.
void select_nm(const float* scores, std::int64_t cols, std::int64_t n, std::int64_t m,
               std::uint8_t* pruned);

}  // namespace rarefy::compress
