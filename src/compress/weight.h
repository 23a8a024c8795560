// A weight while it is pruned: dense, in memory, in the checkpoint's dtype.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "compress/mask.h"
#include "compress/select.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy::compress {

class DenseWeight final : public RowSource {
 public:
  /// Copies all rows of `source`. Throws `Error` (kCorrupt) that names `name` and the place of a
  /// value that is not finite.
  DenseWeight(std::string name, const RowSource& source, ThreadPool& pool);

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] const void* dense_data() const override { return data_.data(); }

  /// Row `row` as f32, and back (rounded to dtype()).
  void read_floats(std::int64_t row, float* out) const { read_floats(row, 0, cols_, out); }
  void read_floats(std::int64_t row, std::int64_t first, std::int64_t count, float* out) const;
  void write_floats(std::int64_t row, const float* values);

  /// Sets to zero what `mask` says.
  void apply(const Mask& mask, ThreadPool& pool);

  [[nodiscard]] std::int64_t nnz(ThreadPool& pool) const;

 private:
  [[nodiscard]] std::byte* at(std::int64_t row) {
    return data_.data() + static_cast<std::size_t>(row * cols_) * size_of(dtype_);
  }
  [[nodiscard]] const std::byte* at(std::int64_t row) const {
    return data_.data() + static_cast<std::size_t>(row * cols_) * size_of(dtype_);
  }

  std::string name_;
  std::int64_t rows_, cols_;
  DType dtype_;
  Buffer data_;
};

/// Scores |w_ij|·scale_j of a source's weights, `scale` (K values, must stay valid) being 1 when
/// nullptr: 1 is magnitude, the norm of an input is Wanda. 0·∞ cannot arise: both are finite.
ScoreGrid weight_scores(const RowSource& source, const float* scale);

/// ‖W-Ŵ‖² / ‖W‖², in double; 0 when W is zero.
double weight_error(const RowSource& before, const RowSource& after, ThreadPool& pool);

}  // namespace rarefy::compress
