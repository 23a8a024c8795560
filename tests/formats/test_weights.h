// Weights for tests: every pattern that has ever broken a sparse kernel, small.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "rarefy/matrix.h"

namespace rarefy::testing {

enum class Pattern {
  kUniform,       ///< Each weight survives with probability `density`.
  kEmptyRows,     ///< Uniform, but two rows of three are empty, the first and the last among them.
  kOneFullRow,    ///< All zero, but one full row.
  kRowSkew,       ///< Row r keeps a share that grows from 0 to 2·density.
  kColumnRuns,    ///< Long gaps: nonzeros come in runs at the ends of the rows.
  kZero,          ///< Nothing at all.
  kFull,          ///< No zero at all.
  kTwoOfFour,     ///< 2:4, which is 4:8 too.
  kNegativeZeros  ///< Uniform; the zeros are -0.0.
};

inline const char* to_string(Pattern pattern) {
  constexpr const char* kNames[] = {"uniform",  "empty_rows",  "one_full_row",
                                    "row_skew", "column_runs", "zero",
                                    "full",     "two_of_four", "negative_zeros"};
  return kNames[static_cast<int>(pattern)];
}

struct WeightCase {
  std::int64_t rows = 0, cols = 0;
  Pattern pattern = Pattern::kUniform;
  double density = 0.5;
};

/// Row-major values about N(0, 1), never so small that a 16-bit type would round them to zero.
inline std::vector<float> make_weights(const WeightCase& c, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  const auto keeps = [&](std::int64_t r, std::int64_t k) {
    switch (c.pattern) {
      case Pattern::kUniform:
      case Pattern::kNegativeZeros:
        return uniform(random) < c.density;
      case Pattern::kEmptyRows:
        return r % 3 == 1 && r + 1 < c.rows && uniform(random) < c.density;
      case Pattern::kOneFullRow:
        return r == c.rows / 2;
      case Pattern::kRowSkew:
        return uniform(random) <
               2 * c.density * static_cast<double>(r) / static_cast<double>(c.rows);
      case Pattern::kColumnRuns:
        return k + 7 >= c.cols || (r % 2 == 0 && k < 3);
      case Pattern::kZero:
        return false;
      case Pattern::kFull:
        return true;
      case Pattern::kTwoOfFour:
        return (r + k / 4 + k % 4 * (1 + (k / 4) % 2)) % 4 < 1 || (r + k / 4) % 4 == k % 4;
    }
    return false;
  };
  std::vector<float> values(static_cast<std::size_t>(c.rows * c.cols));
  for (std::int64_t r = 0; r < c.rows; ++r) {
    for (std::int64_t k = 0; k < c.cols; ++k) {
      float v = normal(random);
      if (std::abs(v) < 0.01F) v = 0.01F;
      const float zero = c.pattern == Pattern::kNegativeZeros ? -0.0F : 0.0F;
      values[static_cast<std::size_t>(r * c.cols + k)] = keeps(r, k) ? v : zero;
    }
  }
  if (c.pattern == Pattern::kTwoOfFour) {  // Drop what makes a third of its group.
    for (std::size_t row = 0; row < values.size(); row += static_cast<std::size_t>(c.cols)) {
      int kept = 0;
      for (std::size_t k = 0; k < static_cast<std::size_t>(c.cols); ++k) {
        if (k % 4 == 0) kept = 0;
        if (values[row + k] != 0.0F && ++kept > 2) values[row + k] = 0.0F;
      }
    }
  }
  return values;
}

/// Every kind of spec that tests go through; those whose packer is missing are skipped by
/// `can_pack`.
inline std::vector<FormatSpec> all_specs() {
  return {format::kDense,
          format::dense_tiles(16, 32),
          format::dense_tiles(16, 16),
          format::kCsr32,
          format::kCsr16,
          format::kBitmap,
          format::kWindow,
          format::kCsb,
          format::kDelta4,
          format::kDelta8,
          format::kSell8,
          format::kSell16,
          format::nm(2, 4),
          format::nm(4, 8),
          format::nm(3, 7),
          format::nm(16, 32),
          format::bsr(16, 32),
          format::bsr(16, 16),
          format::bsr(32, 32),
          format::bsr(4, 4),
          format::bsr(3, 5),
          format::bsr(1, 8),
          format::bsr(1, 1),
          format::hybrid(32, 32, 0),
          format::hybrid(64, 64, 200),
          format::hybrid(32, 128, 400, true),
          format::hybrid(64, 32, 300, true, true),
          format::hybrid(32, 32, 1025)};
}

/// The packed weight, or nullptr when `spec` cannot hold it (its shape, or an N:M pattern that the
/// values break).
inline MatrixPtr try_pack(const RowSource& source, const FormatSpec& spec, DType dtype,
                          ThreadPool& pool) {
  if (!can_pack(spec, source.rows(), source.cols(), dtype)) return nullptr;
  try {
    return pack(source, spec, dtype, pool);
  } catch (const Error& e) {
    if (spec.format == Format::kNm && e.kind() == ErrorKind::kUnsupported) return nullptr;
    throw;
  }
}

}  // namespace rarefy::testing
