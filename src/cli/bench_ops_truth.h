// What a benchmark holds answers against: the product in double at some rows and columns.
#pragma once

#include <cstdint>
#include <vector>

#include "cli/bench_ops_weights.h"
#include "rarefy/spmm.h"

namespace rarefy::bench {

/// Activations from N(0, 1), n × k, the same every time, rounded to `dtype`.
Buffer make_activations(std::int64_t n, std::int64_t k, DType dtype);

/// The right answer at up to 48 rows and 8 columns of C, spread evenly.
class Truth {
 public:
  /// `b` is n × k.
  Truth(const BenchWeight& weight, const ConstMatrixRef& b);

  /// The rows of A and B that it looks at.
  [[nodiscard]] const std::vector<std::int64_t>& rows() const { return rows_; }
  [[nodiscard]] const std::vector<std::int64_t>& tokens() const { return tokens_; }

  /// Largest deviation of C (n × m, f32) over the largest result; infinite for NaN.
  [[nodiscard]] double error(const MatrixRef& c) const;

 private:
  std::vector<std::int64_t> rows_, tokens_;
  std::vector<double> expected_;
  double largest_ = 0;
};

}  // namespace rarefy::bench
