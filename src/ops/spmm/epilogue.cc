#include "ops/spmm/epilogue.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rarefy {

void apply_activation(Activation activation, float* x, std::int64_t count) {
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kRelu:  // NaN stays NaN, as PyTorch has it.
      for (std::int64_t i = 0; i < count; ++i) x[i] = x[i] < 0.0F ? 0.0F : x[i];
      return;
    case Activation::kGelu:
      for (std::int64_t i = 0; i < count; ++i)
        x[i] *= 0.5F * (1.0F + std::erf(x[i] * (std::numbers::sqrt2_v<float> / 2)));
      return;
    case Activation::kSilu:
      for (std::int64_t i = 0; i < count; ++i) x[i] /= 1.0F + std::exp(-x[i]);
      return;
  }
}

void Epilogue::store(std::int64_t token, std::int64_t row, const float* sums,
                     std::int64_t count) const {
  constexpr std::int64_t kChunk = 256;
  const std::size_t element = size_of(c_.dtype);
  auto* out = static_cast<std::byte*>(c_.data) +
              static_cast<std::size_t>(token * c_.row_stride + row) * element;
  const auto* residual = static_cast<const std::byte*>(residual_.data);
  if (residual != nullptr)
    residual += static_cast<std::size_t>(token * residual_.row_stride + row) * element;

  if (bias_ == nullptr && activation_ == Activation::kNone && residual == nullptr)
    return convert_elements(sums, DType::kF32, out, c_.dtype, static_cast<std::size_t>(count));

  float values[kChunk];
  float added[kChunk];
  for (std::int64_t base = 0; base < count; base += kChunk) {
    const std::int64_t n = std::min(kChunk, count - base);
    const std::size_t offset = static_cast<std::size_t>(base) * element;
    if (bias_ != nullptr) {
      for (std::int64_t i = 0; i < n; ++i) values[i] = sums[base + i] + bias_[row + base + i];
    } else {
      std::copy_n(sums + base, n, values);
    }
    apply_activation(activation_, values, n);
    if (residual != nullptr) {
      convert_elements(residual + offset, residual_.dtype, added, DType::kF32,
                       static_cast<std::size_t>(n));
      for (std::int64_t i = 0; i < n; ++i) values[i] += added[i];
    }
    convert_elements(values, DType::kF32, out + offset, c_.dtype, static_cast<std::size_t>(n));
  }
}

}  // namespace rarefy
