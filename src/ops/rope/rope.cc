#include <cmath>

#include "ops/check_rows.h"
#include "rarefy/transformer_ops.h"

namespace rarefy {

RopeTable::RopeTable(std::span<const double> inv_freq, std::int64_t positions)
    : head_dim_(static_cast<std::int64_t>(inv_freq.size()) * 2), positions_(positions) {
  require(!inv_freq.empty(), "rope table: expected at least one frequency");
  require(positions >= 0, "rope table: expected positions >= 0, got {}", positions);
  const auto half = inv_freq.size();
  const std::size_t bytes = static_cast<std::size_t>(positions) * half * sizeof(float);
  cos_ = Buffer(bytes);
  sin_ = Buffer(bytes);
  for (std::int64_t p = 0; p < positions; ++p) {
    float* cosines = cos_.as<float>() + static_cast<std::size_t>(p) * half;
    float* sines = sin_.as<float>() + static_cast<std::size_t>(p) * half;
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * inv_freq[i];
      cosines[i] = static_cast<float>(std::cos(angle));
      sines[i] = static_cast<float>(std::sin(angle));
    }
  }
}

void rope(MatrixRef x, std::int64_t heads, const RopeTable& table, std::int64_t first_position,
          ThreadPool& pool) {
  const std::int64_t dim = table.head_dim();
  ops::require_f32("rope", "x", x, x.rows, heads * dim);
  require(first_position >= 0 && first_position + x.rows <= table.positions(),
          "rope: positions: expected 0…{}, got {}…{}", table.positions() - 1, first_position,
          first_position + x.rows - 1);
  const std::int64_t half = dim / 2;
  ops::for_rows(x.rows, x.cols, pool, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const float* c = table.cos(first_position + t);
      const float* s = table.sin(first_position + t);
      for (std::int64_t h = 0; h < heads; ++h) {
        float* __restrict low = x.row<float>(t) + h * dim;
        float* __restrict high = low + half;
        for (std::int64_t i = 0; i < half; ++i) {
          const float a = low[i];
          const float b = high[i];
          low[i] = a * c[i] - b * s[i];
          high[i] = b * c[i] + a * s[i];
        }
      }
    }
  });
}

}  // namespace rarefy
