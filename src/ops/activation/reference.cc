#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "rarefy/transformer_ops.h"

namespace rarefy::reference {

void swiglu(ConstMatrixRef gate, ConstMatrixRef up, MatrixRef y) {
  for (std::int64_t t = 0; t < gate.rows; ++t) {
    for (std::int64_t i = 0; i < gate.cols; ++i) {
      const double g = gate.row<float>(t)[i];
      y.row<float>(t)[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up.row<float>(t)[i]);
    }
  }
}

void softmax(ConstMatrixRef x, MatrixRef y) {
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const float* from = x.row<float>(t);
    double most = -std::numeric_limits<double>::infinity();
    for (std::int64_t i = 0; i < x.cols; ++i) most = std::max(most, double{from[i]});
    const bool nothing = std::all_of(
        from, from + x.cols, [](float v) { return v == -std::numeric_limits<float>::infinity(); });
    std::vector<double> terms(static_cast<std::size_t>(x.cols));
    double total = 0;
    for (std::int64_t i = 0; i < x.cols; ++i) {
      terms[static_cast<std::size_t>(i)] = nothing ? 0.0 : std::exp(from[i] - most);
      total += terms[static_cast<std::size_t>(i)];
    }
    for (std::int64_t i = 0; i < x.cols; ++i)
      y.row<float>(t)[i] =
          nothing ? 0.0F : static_cast<float>(terms[static_cast<std::size_t>(i)] / total);
  }
}

}  // namespace rarefy::reference
