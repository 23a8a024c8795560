// SDDMM in double, one product after the other.
#include <algorithm>

#include "base/check.h"
#include "ops/sddmm/places.h"
#include "rarefy/sddmm.h"

namespace rarefy {
namespace {

double element(const ConstMatrixRef& x, std::int64_t r, std::int64_t c) {
  if (x.dtype == DType::kF32) return x.row<float>(r)[c];
  if (x.dtype == DType::kF16) return to_float(x.row<Float16>(r)[c]);
  require(x.dtype == DType::kBF16, "sddmm_reference: expected f32, f16 or bf16, got {}",
          to_string(x.dtype));
  return to_float(x.row<BFloat16>(r)[c]);
}

}  // namespace

void sddmm_reference(const Matrix& pattern, ConstMatrixRef p, ConstMatrixRef q, double* out) {
  std::fill(out, out + pattern.rows() * pattern.cols(), 0.0);
  ThreadPool alone(1);
  const Places places = places_of(pattern, alone);
  for (std::int64_t i = 0; i < pattern.rows(); ++i) {
    for (std::int64_t place = places.offsets()[i]; place < places.offsets()[i + 1]; ++place) {
      const std::int64_t j = places.column()[place];
      double sum = 0;
      for (std::int64_t t = 0; t < p.rows; ++t) sum += element(p, t, i) * element(q, t, j);
      out[i * pattern.cols() + j] = sum;
    }
  }
}

}  // namespace rarefy
