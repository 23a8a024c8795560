// Row-major dense: the values as they came, K apart.
#pragma once

#include "rarefy/matrix.h"

namespace rarefy {

class DenseRows final : public Matrix {
 public:
  /// Owns `values`, rows·cols elements of `dtype`.
  DenseRows(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t nnz, Buffer values);
  /// Borrows `ref`, which `owner` keeps alive.
  DenseRows(ConstMatrixRef ref, std::int64_t nnz, std::shared_ptr<const void> owner);

  [[nodiscard]] std::int64_t rows() const override { return ref_.rows; }
  [[nodiscard]] std::int64_t cols() const override { return ref_.cols; }
  [[nodiscard]] DType dtype() const override { return ref_.dtype; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] const void* dense_data() const override;
  [[nodiscard]] const FormatSpec& spec() const override { return format::kDense; }
  [[nodiscard]] std::int64_t nnz() const override { return nnz_; }
  [[nodiscard]] std::size_t bytes() const override;
  void validate() const override;

  /// The values; row_stride may exceed cols when they are borrowed.
  [[nodiscard]] const ConstMatrixRef& values() const { return ref_; }

 private:
  Buffer storage_;
  std::shared_ptr<const void> owner_;
  ConstMatrixRef ref_;
  std::int64_t nnz_;
};

}  // namespace rarefy
