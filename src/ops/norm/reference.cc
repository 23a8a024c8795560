#include <cmath>

#include "rarefy/transformer_ops.h"

namespace rarefy::reference {

void rms_norm(ConstMatrixRef x, std::span<const float> weight, float eps, MatrixRef y) {
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const float* from = x.row<float>(t);
    float* to = y.row<float>(t);
    double squares = 0;
    for (std::int64_t i = 0; i < x.cols; ++i) squares += double{from[i]} * from[i];
    const double root = std::sqrt(squares / static_cast<double>(x.cols) + double{eps});
    for (std::int64_t i = 0; i < x.cols; ++i)
      to[i] = static_cast<float>(from[i] / root * weight[static_cast<std::size_t>(i)]);
  }
}

}  // namespace rarefy::reference
