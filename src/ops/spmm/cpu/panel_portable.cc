// The panel kernel without vectors of its own: the compiler's baseline.
#include "ops/spmm/cpu/panel_inner.h"

namespace rarefy {
namespace {

constexpr int kRows = 4;

/// Four rows times one token: eight partial sums a row, added up in a fixed order.
void four_rows(const PanelJob& job, std::int64_t row, std::int64_t token) {
  constexpr int kLanes = 8;
  const float* w = job.rows + row * job.row_stride;
  const float* x = job.x + token * job.x_stride;
  float partial[kRows][kLanes] = {};
  for (std::int64_t k = 0; k < job.columns; k += kLanes) {
    for (int r = 0; r < kRows; ++r) {
      for (int lane = 0; lane < kLanes; ++lane)
        partial[r][lane] += w[r * job.row_stride + k + lane] * x[k + lane];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const float* p = partial[r];
    const float sum = ((p[0] + p[4]) + (p[1] + p[5])) + ((p[2] + p[6]) + (p[3] + p[7]));
    float* to = job.sums + (row + r) * job.sum_stride + token;
    *to = sum + (job.add ? *to : 0.0F);
  }
}

void multiply(const PanelJob& job) {
  for (std::int64_t row = 0; row < job.row_count; row += kRows) {
    for (std::int64_t t = 0; t < job.tokens; ++t) four_rows(job, row, t);
  }
}

void widen(const void* from, DType dtype, std::int64_t count, float* to) {
  convert_elements(from, dtype, to, DType::kF32, static_cast<std::size_t>(count));
}

}  // namespace

const PanelInners kPanelPortable = {multiply, widen};

}  // namespace rarefy
