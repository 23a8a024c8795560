#pragma once

#include "array.h"
#include "base/check.h"

namespace rarefy::python {

/// The biases of a layer as f32, whatever their dtype.
class Bias {
 public:
  Bias(const Array& array, std::int64_t count) {
    require(array.ndim() == 1 && array.size() == count && is_compute_dtype(array.dtype()),
            "bias: expected f32, f16 or bf16 [{}], got {}", count, array.describe());
    const void* data = array.contiguous(array.dtype());
    if (array.dtype() == DType::kF32 || count == 0) {
      values_ = static_cast<const float*>(data);
      return;
    }
    converted_ = Buffer(static_cast<std::size_t>(count) * sizeof(float));
    convert_elements(data, array.dtype(), converted_.data(), DType::kF32,
                     static_cast<std::size_t>(count));
    values_ = converted_.as<float>();
  }
  [[nodiscard]] const float* values() const { return values_; }

 private:
  Buffer converted_;
  const float* values_ = nullptr;
};

}  // namespace rarefy::python
