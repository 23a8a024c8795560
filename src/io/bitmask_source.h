// A weight stored by compressed-tensors as sparse-bitmask or sparse-24-bitmask.
#pragma once

#include <memory>
#include <string>

#include "io/shards.h"
#include "rarefy/checkpoint.h"
#include "rarefy/tensor.h"

namespace rarefy::io {

/// The arrays of one compressed tensor. compressed-tensors calls them P.compressed, P.bitmask,
/// P.shape and P.row_offsets, P being the module ("model.layers.0.mlp.up_proj") or, before 0.9, the
/// parameter ("model.layers.0.mlp.up_proj.weight").
struct BitmaskArrays {
  std::string prefix;  ///< P
  StoredArray compressed, bitmask, shape, row_offsets;

  /// sparse-24-bitmask goes without row offsets.
  [[nodiscard]] Storage storage() const {
    return row_offsets.info == nullptr ? Storage::kSparse24Bitmask : Storage::kSparseBitmask;
  }
  [[nodiscard]] std::size_t bytes() const;
};

/// Checks that the arrays' dtypes and shapes fit each other and returns the dense shape (of one or
/// two dimensions). Cheap: reads nothing but P.shape. Throws kCorrupt.
Shape check_bitmask_arrays(const BitmaskArrays& arrays);

/// Rows decoded on demand. Checks the structure first, reading all masks and row offsets: offsets
/// are the running sums of the rows' set bits, the sum is the number of values, no bit is set
/// beyond the last column, and in sparse-24-bitmask each group of four has two. Throws kCorrupt;
/// kUnsupported for values that are not f32, f16 or bf16.
std::shared_ptr<const RowSource> make_bitmask_source(const BitmaskArrays& arrays);

}  // namespace rarefy::io
