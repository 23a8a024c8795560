// From the arrays of files to the tensors of a model.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "io/bitmask_source.h"
#include "io/shards.h"

namespace rarefy::io {

/// A tensor as the dense model knows it, and where it lies.
struct LogicalTensor {
  StoredArray dense;                     ///< Unless compressed:
  std::optional<BitmaskArrays> bitmask;  ///< its several arrays.

  [[nodiscard]] const StoredArray& values() const { return bitmask ? bitmask->compressed : dense; }
  [[nodiscard]] std::vector<StoredArray> arrays() const;
};

/// Groups "P.compressed", "P.bitmask", "P.shape" and "P.row_offsets" into one tensor, which is
/// called P where P ends in ".weight" or ".bias" (the older spelling) and "P.weight" otherwise;
/// what remains is dense. Throws kCorrupt for a group that lacks an array or a name that comes out
/// twice.
std::map<std::string, LogicalTensor> group_arrays(const StoredArrays& arrays);

/// An array of F32, F16, BF16 or F64 as floats; throws kUnsupported for others.
std::vector<float> dense_floats(const StoredArray& array);

}  // namespace rarefy::io
