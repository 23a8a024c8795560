// The end of every SpMM kernel: from f32 sums to stored results, C = act(sum + bias) + residual.
#pragma once

#include <cstdint>

#include "rarefy/spmm.h"

namespace rarefy {

/// Where and how sums become results; token-major. Built once a call, used by all threads.
class Epilogue {
 public:
  explicit Epilogue(const SpmmArgs& args)
      : c_(args.c), residual_(args.residual), bias_(args.bias), activation_(args.activation) {}

  /// Stores `count` sums as C[token, row …]; all kernels of a build round the same way.
  void store(std::int64_t token, std::int64_t row, const float* sums, std::int64_t count) const;

  /// True when results are the sums themselves, as f32: kernels may then write c directly.
  [[nodiscard]] bool is_plain_f32() const {
    return c_.dtype == DType::kF32 && bias_ == nullptr && residual_.data == nullptr &&
           activation_ == Activation::kNone;
  }
  [[nodiscard]] const MatrixRef& c() const { return c_; }

 private:
  MatrixRef c_;
  ConstMatrixRef residual_;
  const float* bias_;
  Activation activation_;
};

/// act(x) for `count` values in place, in f32.
void apply_activation(Activation activation, float* x, std::int64_t count);

}  // namespace rarefy
