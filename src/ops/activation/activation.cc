#include "ops/activation/cpu/kernels.h"
#include "ops/check_rows.h"
#include "rarefy/cpu.h"
#include "rarefy/transformer_ops.h"

namespace rarefy {

const activation::Kernels& activation::kernels() {
#if defined(__x86_64__)
  if (active_isa() >= Isa::kAvx512) return kAvx512;
  if (active_isa() >= Isa::kAvx2) return kAvx2;
#endif
  return kPortable;
}

void swiglu(ConstMatrixRef gate, ConstMatrixRef up, MatrixRef y, ThreadPool& pool) {
  ops::require_f32("swiglu", "gate", gate, gate.rows, gate.cols);
  ops::require_f32("swiglu", "up", up, gate.rows, gate.cols);
  ops::require_f32("swiglu", "y", y, gate.rows, gate.cols);
  const auto kernel = activation::kernels().swiglu;
  ops::for_rows(gate.rows, gate.cols, pool, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      kernel(gate.row<float>(t), up.row<float>(t), y.row<float>(t), gate.cols);
  });
}

void softmax(ConstMatrixRef x, MatrixRef y, ThreadPool& pool) {
  ops::require_f32("softmax", "x", x, x.rows, x.cols);
  ops::require_f32("softmax", "y", y, x.rows, x.cols);
  const auto kernel = activation::kernels().softmax;
  ops::for_rows(x.rows, x.cols, pool, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) kernel(x.row<float>(t), y.row<float>(t), x.cols);
  });
}

}  // namespace rarefy
