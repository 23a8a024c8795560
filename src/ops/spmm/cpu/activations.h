// Activations as the decode kernels read them.
#pragma once

#include <cstdint>

#include "ops/spmm/scratch.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy {

/// B (tokens × K) in f32, each token's row followed by zeros up to `padded` columns; B itself when
/// it is that already.
class PaddedActivations {
 public:
  PaddedActivations(const ConstMatrixRef& b, std::int64_t padded, ThreadPool& pool);
  [[nodiscard]] const float* data() const { return data_; }
  [[nodiscard]] std::int64_t stride() const { return stride_; }

 private:
  Scratch storage_;
  const float* data_;
  std::int64_t stride_;
};

/// Writes `from` (tokens rows, `stride` apart, `padded` columns) so that the tokens of a group of
/// `group` columns lie together: element (k, t) at ((k / group) · tokens + t) · group + k % group.
void interleave_tokens(const float* from, std::int64_t stride, std::int64_t tokens,
                       std::int64_t padded, std::int64_t group, float* to, ThreadPool& pool);

}  // namespace rarefy
