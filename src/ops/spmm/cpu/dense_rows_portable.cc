// Dense rows in plain C++, eight partial sums a row so that the compiler may use what vectors there
// are.
#include <cstring>

#include "ops/spmm/cpu/dense_rows_inner.h"
#include "rarefy/dtype.h"

namespace rarefy {
namespace {

template <class W>
void run(const DenseRowsJob& job) {
  constexpr std::int64_t kLanes = 8;
  for (std::int64_t r = 0; r < job.rows; ++r) {
    const auto* row = reinterpret_cast<const W*>(job.weights + r * job.row_bytes);
    for (std::int64_t t = 0; t < job.tokens; ++t) {
      const float* x = job.x + t * job.x_stride;
      float partial[kLanes] = {};
      std::int64_t k = 0;
      for (; k + kLanes <= job.cols; k += kLanes)
        for (std::int64_t lane = 0; lane < kLanes; ++lane)
          partial[lane] += to_float(row[k + lane]) * x[k + lane];
      for (std::int64_t lane = 0; k < job.cols; ++k, ++lane)
        partial[lane] += to_float(row[k]) * x[k];
      job.sums[t * job.sum_stride + r] = ((partial[0] + partial[4]) + (partial[1] + partial[5])) +
                                         ((partial[2] + partial[6]) + (partial[3] + partial[7]));
    }
  }
}

}  // namespace

void dense_rows_bf16_portable(const DenseRowsJob& job) {
  run<BFloat16>(job);
}
void dense_rows_f16_portable(const DenseRowsJob& job) {
  run<Float16>(job);
}
void dense_rows_f32_portable(const DenseRowsJob& job) {
  run<float>(job);
}

}  // namespace rarefy
