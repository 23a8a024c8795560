#include "ops/spmm/cpu/activations.h"

#include <algorithm>

#include "rarefy/dtype.h"

namespace rarefy {
namespace {

bool usable_in_place(const ConstMatrixRef& b, std::int64_t padded) {
  return b.dtype == DType::kF32 && b.cols == padded;
}

}  // namespace

PaddedActivations::PaddedActivations(const ConstMatrixRef& b, std::int64_t padded, ThreadPool& pool)
    : storage_(usable_in_place(b, padded)
                   ? 0
                   : static_cast<std::size_t>(b.rows * padded) * sizeof(float)),
      data_(static_cast<const float*>(b.data)),
      stride_(b.row_stride) {
  if (usable_in_place(b, padded)) return;
  auto* copy = storage_.as<float>();
  data_ = copy;
  stride_ = padded;
  const auto convert = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const auto* from = static_cast<const std::byte*>(b.data) +
                         static_cast<std::size_t>(t * b.row_stride) * size_of(b.dtype);
      convert_elements(from, b.dtype, copy + t * padded, DType::kF32,
                       static_cast<std::size_t>(b.cols));
      std::fill(copy + t * padded + b.cols, copy + (t + 1) * padded, 0.0F);
    }
  };
  if (b.rows == 1) {
    convert(0, 1);  // A few microseconds: not worth waking anyone.
  } else {
    pool.parallel_for(b.rows, convert);
  }
}

void interleave_tokens(const float* from, std::int64_t stride, std::int64_t tokens,
                       std::int64_t padded, std::int64_t group, float* to, ThreadPool& pool) {
  pool.parallel_for(padded / group, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t g = begin; g < end; ++g) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t j = 0; j < group; ++j)
          to[(g * tokens + t) * group + j] = from[t * stride + g * group + j];
      }
    }
  });
}

}  // namespace rarefy
