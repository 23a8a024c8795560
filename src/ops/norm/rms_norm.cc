#include "ops/check_rows.h"
#include "ops/norm/cpu/kernels.h"
#include "rarefy/cpu.h"
#include "rarefy/transformer_ops.h"

namespace rarefy {
namespace {

norm::RowKernel row_kernel() {
#if defined(__x86_64__)
  if (active_isa() >= Isa::kAvx512) return norm::row_avx512;
  if (active_isa() >= Isa::kAvx2) return norm::row_avx2;
#endif
  return norm::row_portable;
}

}  // namespace

void rms_norm(ConstMatrixRef x, std::span<const float> weight, float eps, MatrixRef y,
              ThreadPool& pool) {
  ops::require_f32("rms_norm", "x", x, x.rows, x.cols);
  ops::require_f32("rms_norm", "y", y, x.rows, x.cols);
  require(static_cast<std::int64_t>(weight.size()) == x.cols,
          "rms_norm: weight: expected {} values, got {}", x.cols, weight.size());
  if (x.cols == 0) return;
  const norm::RowKernel kernel = row_kernel();
  ops::for_rows(x.rows, x.cols, pool, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      kernel(x.row<float>(t), weight.data(), eps, y.row<float>(t), x.cols);
  });
}

}  // namespace rarefy
