// SwiGLU and softmax of one row, one set of kernels an instruction set.
#pragma once

#include <cstdint>

namespace rarefy::activation {

struct Kernels {
  /// y[i] = gate[i] / (1 + exp(-gate[i])) · up[i] for i < width; y may be gate or up.
  void (*swiglu)(const float* gate, const float* up, float* y, std::int64_t width);
  /// y[i] = exp(x[i] - max) / Σ exp(x - max); y may be x. Zeros for a row of -inf.
  void (*softmax)(const float* x, float* y, std::int64_t width);
  /// log Σ exp(x); -inf for a row of -inf.
  double (*log_sum_exp)(const float* x, std::int64_t width);
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

/// Those of the active instruction set.
const Kernels& kernels();

}  // namespace rarefy::activation
