#include "rarefy/transformer_ops.h"

namespace rarefy::reference {

void rope(MatrixRef x, std::int64_t heads, const RopeTable& table, std::int64_t first_position) {
  const std::int64_t dim = table.head_dim();
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      float* head = x.row<float>(t) + h * dim;
      for (std::int64_t i = 0; i < dim / 2; ++i) {
        const double cosine = table.cos(first_position + t)[i];
        const double sine = table.sin(first_position + t)[i];
        const double a = head[i];
        const double b = head[i + dim / 2];
        head[i] = static_cast<float>(a * cosine - b * sine);
        head[i + dim / 2] = static_cast<float>(b * cosine + a * sine);
      }
    }
  }
}

}  // namespace rarefy::reference
