// Small weights and inputs that the tests of this folder share.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "compress/weight.h"
#include "rarefy/tensor.h"

namespace rarefy::testing {

/// Normal values from a fixed seed.
inline std::vector<float> normal_values(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = normal(engine);
  return values;
}

/// T×K inputs whose columns are strongly correlated, of very different size: where compensation
/// and input norms matter.
inline std::vector<float> correlated_inputs(std::int64_t tokens, std::int64_t k,
                                            std::uint64_t seed) {
  std::vector<float> x = normal_values(tokens * k, seed);
  for (std::int64_t t = 0; t < tokens; ++t) {
    float* const row = x.data() + t * k;
    for (std::int64_t j = 1; j < k; ++j) row[j] = 0.8F * row[j - 1] + 0.6F * row[j];
    for (std::int64_t j = 0; j < k; ++j) row[j] *= std::exp(static_cast<float>((j * 7) % 5) - 2.0F);
  }
  return x;
}

inline compress::DenseWeight dense_weight(const std::vector<float>& values, std::int64_t rows,
                                          std::int64_t cols, ThreadPool& pool,
                                          DType dtype = DType::kF32) {
  std::vector<float> converted(values.size());
  convert_elements(values.data(), DType::kF32, converted.data(), dtype, values.size());
  return {"w", DenseSource({converted.data(), dtype, rows, cols, cols}), pool};
}

/// All values of a source as f32.
inline std::vector<float> floats_of(const RowSource& source) {
  const auto count = static_cast<std::size_t>(source.rows() * source.cols());
  std::vector<float> raw(count);
  std::vector<float> values(count);
  source.read_rows(0, source.rows(), raw.data());
  convert_elements(raw.data(), source.dtype(), values.data(), DType::kF32, count);
  return values;
}

/// ‖(W-Ŵ)X‖² with W M×K and X T×K, in double.
inline double squared_output_change(const std::vector<float>& before,
                                    const std::vector<float>& after, const std::vector<float>& x,
                                    std::int64_t m, std::int64_t k) {
  const auto tokens = static_cast<std::int64_t>(x.size()) / k;
  double sum = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t i = 0; i < m; ++i) {
      double y = 0;
      for (std::int64_t j = 0; j < k; ++j) {
        const auto at = static_cast<std::size_t>(i * k + j);
        y += (static_cast<double>(before[at]) - after[at]) * x[static_cast<std::size_t>(t * k + j)];
      }
      sum += y * y;
    }
  }
  return sum;
}

}  // namespace rarefy::testing
