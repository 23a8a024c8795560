// What tests of block-sparse products on a GPU share: a weight of blocks, activations, and the
// products in double.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ops/block_sparse/cuda/block_config.h"
#include "rarefy/block_sparse.h"

namespace rarefy::gpu {

enum class Stored { kSome, kEmptyRows, kAll, kNone, kOneColumn, kTurns };

/// One problem with its operands as they lie in memory, its results not yet written (NaN).
class BlockCase {
 public:
  /// @param step results of every `step`th token are held against double; of samples all.
  BlockCase(BlockProblem problem, Stored stored, unsigned seed = 1, std::int64_t step = 1)
      : p(problem), random_(seed), step_(problem.product == BlockProduct::kSamples ? 1 : step) {
    make_pattern(stored);
    const std::int64_t n = p.tokens;
    values = draw(pattern.blocks() * p.block_rows * p.block_cols);
    if (p.product == BlockProduct::kSamples) {
      b = draw(n * p.rows);
      q = draw(n * p.cols);
      result.assign(values.size(), kNan);
    } else {
      b = draw(n * inputs());
      residual = draw(n * outputs());
      result.assign(static_cast<std::size_t>(n * outputs()), kNan);
      for (std::int64_t i = 0; i < outputs(); ++i) bias.push_back(normal_(random_));
    }
    make_reference();
  }
  BlockCase(const BlockCase&) = delete;  // `pattern` is a view.

  [[nodiscard]] std::int64_t inputs() const { return p.transposed() ? p.rows : p.cols; }
  [[nodiscard]] std::int64_t outputs() const { return p.transposed() ? p.cols : p.rows; }

  void expect_close(const std::string& what) const {
    // The result's own rounding, and f32's on a sum of up to `terms` products of about 1, each at
    // worst in the last place of the largest partial sum.
    const double eps = p.dtype == DType::kF16 ? 0x1p-10 : 0x1p-7;
    const auto terms =
        static_cast<double>(p.product == BlockProduct::kSamples ? p.tokens : inputs());
    std::vector<float> found(result.size());
    convert_elements(result.data(), p.dtype, found.data(), DType::kF32, result.size());
    const auto row = static_cast<std::size_t>(
        p.product == BlockProduct::kSamples ? std::ssize(reference_) : outputs());
    for (std::size_t i = 0; i < reference_.size(); ++i) {
      const std::size_t at =
          i / std::max<std::size_t>(1, row) * static_cast<std::size_t>(step_) * row +
          i % std::max<std::size_t>(1, row);
      ASSERT_NEAR(found[at], reference_[i],
                  eps * std::abs(reference_[i]) + 4 * std::sqrt(terms) * 0x1p-20)
          << what << " at " << at << " of " << found.size();
    }
  }

  BlockProblem p;
  BlockPattern pattern;
  std::vector<std::uint16_t> values, b, q, residual;  ///< b: P of samples.
  std::vector<float> bias;
  std::vector<std::uint16_t> result;

 private:
  static constexpr std::uint16_t kNan = 0xFFFF;

  std::vector<std::uint16_t> draw(std::int64_t count) {
    std::vector<float> numbers(static_cast<std::size_t>(count));
    for (float& x : numbers) x = normal_(random_);
    std::vector<std::uint16_t> bits(numbers.size());
    convert_elements(numbers.data(), DType::kF32, bits.data(), p.dtype, numbers.size());
    return bits;
  }

  void make_pattern(Stored stored) {
    const std::int64_t rows = p.rows / p.block_rows, cols = p.cols / p.block_cols;
    // Strips that have nothing for longer than any ring, in turn with their neighbours.
    constexpr std::int64_t kTurn = 9;
    const std::int64_t across = p.transposed() ? kTurn : 1, along = p.transposed() ? 1 : kTurn;
    std::bernoulli_distribution keep(p.density);
    row_offsets_.push_back(0);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        const bool some = keep(random_);
        if (stored == Stored::kAll || (stored == Stored::kSome && some) ||
            (stored == Stored::kEmptyRows && some && r % 2 == 1) ||
            (stored == Stored::kOneColumn && c == cols - 1) ||
            (stored == Stored::kTurns && r / across % 2 == c / along % 2))
          col_indices_.push_back(static_cast<std::int32_t>(c));
      }
      row_offsets_.push_back(static_cast<std::int32_t>(col_indices_.size()));
    }
    pattern = {.rows = p.rows,
               .cols = p.cols,
               .block_rows = p.block_rows,
               .block_cols = p.block_cols,
               .row_offsets = row_offsets_,
               .col_indices = col_indices_};
    columns_ = block_columns(pattern);
    pattern.col_offsets = columns_.offsets;
    pattern.row_indices = columns_.row_indices;
    pattern.order = columns_.order;
  }

  void make_reference() {
    const std::int64_t tokens = (p.tokens + step_ - 1) / step_;
    const auto matrix = [&](const std::vector<std::uint16_t>& data, std::int64_t columns) {
      return ConstMatrixRef{data.data(), p.dtype, tokens, columns, columns * step_};
    };
    reference_.resize(p.product == BlockProduct::kSamples
                          ? result.size()
                          : static_cast<std::size_t>(tokens * outputs()));
    if (p.product == BlockProduct::kSamples)
      return block_sddmm_reference(pattern, matrix(b, p.rows), matrix(q, p.cols), reference_);
    SpmmArgs args;
    args.b = matrix(b, inputs());
    args.c = {reference_.data(), DType::kF64, tokens, outputs(), outputs()};
    args.activation = p.activation;
    if (p.bias) args.bias = bias.data();
    if (p.residual) args.residual = matrix(residual, outputs());
    const ConstBlockValues all{values.data(), p.dtype, std::ssize(values)};
    if (p.transposed()) {
      block_linear_transposed_reference(pattern, all, args);
    } else {
      block_linear_reference(pattern, all, args);
    }
  }

  std::mt19937 random_;
  std::int64_t step_;
  std::normal_distribution<float> normal_;
  std::vector<std::int32_t> row_offsets_, col_indices_;
  BlockColumns columns_;
  std::vector<double> reference_;
};

}  // namespace rarefy::gpu
