// The weights of a random checkpoint: any row of any tensor, made when it is asked for.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/random_checkpoint.h"
#include "rarefy/dtype.h"

namespace rarefy {

/// Values of one tensor: all from a table of quantiles, and blocks that are zero.
struct RandomValues {
  std::uint64_t key = 0;
  std::shared_ptr<const std::vector<BFloat16>> table;
  double empty = 0;  ///< Share of blocks.
  int block_rows = 1, block_cols = 1;

  /// Row `r`, the same whoever makes it.
  void fill(std::int64_t r, BFloat16* row, std::int64_t cols) const;
};

/// Those of all tensors of a model.
class RandomTensors {
 public:
  explicit RandomTensors(const RandomCheckpoint& model);
  /// @param index of the tensor in its checkpoint
  [[nodiscard]] RandomValues of(std::size_t index, bool pruned) const;

 private:
  RandomValues dense_, pruned_;
  std::uint64_t seed_;
};

}  // namespace rarefy
