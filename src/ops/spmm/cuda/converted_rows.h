// A weight in another dtype, row by row.
#pragma once

#include <cstdint>

#include "rarefy/tensor.h"

namespace rarefy::gpu {

/// Rows of another source, rounded to another dtype.
class ConvertedRows final : public RowSource {
 public:
  ConvertedRows(const RowSource& from, DType dtype) : from_(&from), dtype_(dtype) {}
  [[nodiscard]] std::int64_t rows() const override { return from_->rows(); }
  [[nodiscard]] std::int64_t cols() const override { return from_->cols(); }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] const void* dense_data() const override {
    return from_->dtype() == dtype_ ? from_->dense_data() : nullptr;
  }

 private:
  const RowSource* from_;
  DType dtype_;
};

}  // namespace rarefy::gpu
