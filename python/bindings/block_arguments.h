// What the bindings of block-sparse weights check alike.
#pragma once

#include <cstdint>
#include <span>

#include "array.h"
#include "base/check.h"

namespace rarefy::python {

inline std::span<const std::int32_t> indices(const ArrayArgument& argument, const char* name) {
  const Array array(argument, name);
  require(array.ndim() == 1, "{}: expected one dimension, got {}", name, array.describe());
  return {static_cast<const std::int32_t*>(array.contiguous(DType::kI32)),
          static_cast<std::size_t>(array.size())};
}

/// What fits an int; the library checks the rest.
inline int block_side(std::int64_t side) {
  constexpr std::int64_t kLargest = 1 << 15;
  require(side >= 1 && side <= kLargest, "block shape: expected 1 to {} rows and columns, got {}",
          kLargest, side);
  return static_cast<int>(side);
}

}  // namespace rarefy::python
