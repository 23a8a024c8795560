// The device code of the tree: every .cu and .cuh file below src/, carried in the binary as text.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "rarefy/dtype.h"

namespace rarefy::cuda {

struct DeviceText {
  std::string_view name;  ///< Path below src/: "ops/spmm/cuda/composed.cu".
  std::string_view text;
};

/// All of them, in order of name.
std::span<const DeviceText> device_texts();

/// Throws `Error` (kInternal) when there is none of this name.
std::string_view device_text(std::string_view name);

/// "float", "f16", "bf16": the type in device code (number.cuh).
const char* device_type(DType dtype);

}  // namespace rarefy::cuda
