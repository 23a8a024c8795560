#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "rarefy/transformer_ops.h"

namespace rarefy::reference {
namespace {

double element(const ConstMatrixRef& m, std::int64_t row, std::int64_t col) {
  float value = 0;
  const auto* at = static_cast<const std::byte*>(m.data) +
                   static_cast<std::size_t>(row * m.row_stride + col) * size_of(m.dtype);
  convert_elements(at, m.dtype, &value, DType::kF32, 1);
  return value;
}

}  // namespace

void attention(const AttentionArgs& a) {
  const std::int64_t group = a.heads / a.kv_heads;
  for (std::int64_t t = 0; t < a.q.rows; ++t) {
    const std::int64_t position = a.first_position + t;
    const std::int64_t oldest =
        a.window > 0 ? std::max<std::int64_t>(0, position - a.window + 1) : 0;
    for (std::int64_t h = 0; h < a.heads; ++h) {
      const std::int64_t kv = h / group * a.head_dim;
      std::vector<double> scores;
      double most = -std::numeric_limits<double>::infinity();
      for (std::int64_t s = oldest; s <= position; ++s) {
        double score = 0;
        for (std::int64_t d = 0; d < a.head_dim; ++d)
          score += double{a.q.row<float>(t)[h * a.head_dim + d]} * element(a.k, s, kv + d);
        scores.push_back(score * double{a.scale});
        most = std::max(most, scores.back());
      }
      double total = 0;
      for (double& score : scores) total += score = std::exp(score - most);
      for (std::int64_t d = 0; d < a.head_dim; ++d) {
        double sum = 0;
        for (std::int64_t s = oldest; s <= position; ++s)
          sum += scores[static_cast<std::size_t>(s - oldest)] * element(a.v, s, kv + d);
        a.out.row<float>(t)[h * a.head_dim + d] = static_cast<float>(sum / total);
      }
    }
  }
}

}  // namespace rarefy::reference
