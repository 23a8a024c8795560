// What every packed matrix says about itself.
#pragma once

#include "rarefy/matrix.h"

namespace rarefy {

struct PackedShape {
  FormatSpec spec;
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::kF32;
  std::int64_t nnz = 0;
};

class PackedMatrix : public Matrix {
 public:
  explicit PackedMatrix(const PackedShape& shape) : shape_(shape) {}
  [[nodiscard]] std::int64_t rows() const final { return shape_.rows; }
  [[nodiscard]] std::int64_t cols() const final { return shape_.cols; }
  [[nodiscard]] DType dtype() const final { return shape_.dtype; }
  [[nodiscard]] const FormatSpec& spec() const final { return shape_.spec; }
  [[nodiscard]] std::int64_t nnz() const final { return shape_.nnz; }

 private:
  PackedShape shape_;
};

}  // namespace rarefy
