#include "cli/bench_ops_truth.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace rarefy::bench {
namespace {

/// Rows of a weight picked evenly, as a weight of their own: what the reference is asked about.
class PickedRows final : public RowSource {
 public:
  PickedRows(const DenseSource& source, std::vector<std::int64_t> rows)
      : source_(source), rows_(std::move(rows)) {}
  [[nodiscard]] std::int64_t rows() const override { return std::ssize(rows_); }
  [[nodiscard]] std::int64_t cols() const override { return source_.cols(); }
  [[nodiscard]] DType dtype() const override { return source_.dtype(); }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    const std::size_t row_bytes = static_cast<std::size_t>(cols()) * size_of(dtype());
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t row = rows_[static_cast<std::size_t>(r)];
      source_.read_rows(
          row, row + 1,
          static_cast<std::byte*>(out) + static_cast<std::size_t>(r - begin) * row_bytes);
    }
  }

 private:
  const DenseSource& source_;
  std::vector<std::int64_t> rows_;
};

std::vector<std::int64_t> spread(std::int64_t count, std::int64_t at_most) {
  std::vector<std::int64_t> picked;
  const std::int64_t wanted = std::min(count, at_most);
  for (std::int64_t i = 0; i < wanted; ++i)
    picked.push_back(wanted > 1 ? i * (count - 1) / (wanted - 1) : 0);
  return picked;
}

}  // namespace

Buffer make_activations(std::int64_t n, std::int64_t k, DType dtype) {
  std::vector<float> values(static_cast<std::size_t>(n * k));
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  for (float& value : values) value = normal(random);
  Buffer buffer(values.size() * size_of(dtype));
  convert_elements(values.data(), DType::kF32, buffer.data(), dtype, values.size());
  return buffer;
}

Truth::Truth(const BenchWeight& weight, const ConstMatrixRef& b)
    : rows_(spread(weight.m, 48)), tokens_(spread(b.rows, 8)) {
  const DenseSource source = weight.source();
  const PickedRows picked(source, rows_);
  const std::size_t row_bytes = static_cast<std::size_t>(weight.k) * size_of(b.dtype);
  std::vector<std::byte> tokens(tokens_.size() * row_bytes);
  for (std::size_t t = 0; t < tokens_.size(); ++t) {
    const auto* from = static_cast<const std::byte*>(b.data) +
                       static_cast<std::size_t>(tokens_[t] * b.row_stride) * size_of(b.dtype);
    std::copy_n(from, row_bytes, tokens.data() + t * row_bytes);
  }
  expected_.resize(rows_.size() * tokens_.size());
  SpmmArgs args;
  const auto m = std::ssize(rows_);
  args.b = {tokens.data(), b.dtype, std::ssize(tokens_), weight.k, weight.k};
  args.c = {expected_.data(), DType::kF64, std::ssize(tokens_), m, m};
  spmm_reference(picked, args);
  for (double value : expected_) largest_ = std::max(largest_, std::abs(value));
}

double Truth::error(const MatrixRef& c) const {
  double worst = 0;
  const double* expected = expected_.data();
  for (std::int64_t token : tokens_) {
    for (std::int64_t row : rows_) {
      const double off = std::abs(static_cast<double>(c.row<float>(token)[row]) - *expected++);
      worst = std::isfinite(off) ? std::max(worst, off) : INFINITY;
    }
  }
  return largest_ > 0 ? worst / largest_ : worst;
}

}  // namespace rarefy::bench
