// The weights of a random checkpoint: any row of any tensor, made when it is asked for.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/random_checkpoint.h"
#include "rarefy/dtype.h"

namespace rarefy {

/// Values of one tensor: all from a table of quantiles, and zeros where they are not even.
struct RandomValues {
  std::uint64_t key = 0;
  std::shared_ptr<const std::vector<BFloat16>> table;
  double empty = 0;  ///< Share of blocks that are zero.
  int block_rows = 1, block_cols = 1;
  double block_zeros = 0;  ///< In all, where 64x64 blocks have shares of zeros of their own.
  std::shared_ptr<const std::vector<double>> row_densities;  ///< Where rows have; may be none.

  /// Row `r`, the same whoever makes it.
  void fill(std::int64_t r, BFloat16* row, std::int64_t cols) const;
};

/// Those of all tensors of a model.
class RandomTensors {
 public:
  explicit RandomTensors(const RandomCheckpoint& model);
  /// @param index of the tensor in its checkpoint
  [[nodiscard]] RandomValues of(std::size_t index, std::int64_t rows, bool pruned) const;

 private:
  RandomValues dense_, pruned_;
  double row_zeros_ = 0;  ///< In all, where rows have shares of their own.
  std::uint64_t seed_;
};

}  // namespace rarefy
