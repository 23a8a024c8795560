// The k smallest of many scores, exactly: ties go by position, so that the answer is the same for
// any number of threads.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <span>

#include "rarefy/threads.h"

namespace rarefy::compress {

/// Scores that are not negative order as their bit patterns do: a key is those bits.
inline std::uint32_t score_key(float score) {
  return std::bit_cast<std::uint32_t>(score) & 0x7FFFFFFFU;
}

/// A grid of scores that are made when they are asked for, so that no selection ever holds them
/// all.
struct ScoreGrid {
  std::int64_t rows = 0, cols = 0;
  std::function<void(std::int64_t row, float* scores)> fill;  ///< Called from many threads.
};

/// Where a selection ends in the order (key, position): all before it, and itself, are selected.
struct Cut {
  std::int64_t key = -1;       ///< -1 selects nothing.
  std::int64_t position = -1;  ///< row · cols + column, counted on through the grids.

  [[nodiscard]] bool selects(std::uint32_t score, std::int64_t at) const {
    return score < key || (score == key && at <= position);
  }
};

/// The cut that selects the `count` smallest scores of all `grids` together. Reads the scores twice
/// (a radix select over the two halves of the keys), and a third time up to the last tie when a
/// part of the ties is to be taken. Scores may not be NaN.
Cut find_cut(std::span<const ScoreGrid> grids, std::int64_t count, ThreadPool& pool);

/// Marks the `count` smallest of a row's scores with 1 in `selected`, the others with 0.
/// @param scratch as many elements as there are scores.
void select_smallest(std::span<const float> scores, std::int64_t count,
                     std::span<std::uint64_t> scratch, std::uint8_t* selected);

/// round(sparsity · n), the number of zeros a group of n weights gets; halves round up.
std::int64_t zeros_of(double sparsity, std::int64_t n);

}  // namespace rarefy::compress
