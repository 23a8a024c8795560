// Block-sparse products in double, one after the other.
#include <vector>

#include "base/check.h"
#include "rarefy/block_sparse.h"

namespace rarefy {
namespace {

double element(const ConstMatrixRef& x, std::int64_t r, std::int64_t c) {
  switch (x.dtype) {
    case DType::kF32:
      return x.row<float>(r)[c];
    case DType::kF16:
      return to_float(x.row<Float16>(r)[c]);
    case DType::kBF16:
      return to_float(x.row<BFloat16>(r)[c]);
    default:
      fail(ErrorKind::kUnsupported, "block_sparse reference: expected f32, f16 or bf16, got {}",
           to_string(x.dtype));
  }
}

/// Calls body(row, column, position among the values) for every stored position.
template <class Body>
void for_each_position(const BlockPattern& p, Body&& body) {
  std::int64_t at = 0;
  for (std::int64_t r = 0; r < p.rows / p.block_rows; ++r) {
    for (std::int32_t b = p.row_offsets[static_cast<std::size_t>(r)];
         b < p.row_offsets[static_cast<std::size_t>(r) + 1]; ++b) {
      const std::int64_t c = p.col_indices[static_cast<std::size_t>(b)];
      for (std::int64_t i = 0; i < p.block_rows; ++i)
        for (std::int64_t j = 0; j < p.block_cols; ++j)
          body(r * p.block_rows + i, c * p.block_cols + j, at++);
    }
  }
}

/// The weight as a dense matrix of doubles (or its transposed) for spmm_reference; a stored NaN
/// stays one.
class DenseWeight : public RowSource {
 public:
  DenseWeight(const BlockPattern& p, const ConstBlockValues& values, bool transposed)
      : rows_(transposed ? p.cols : p.rows),
        cols_(transposed ? p.rows : p.cols),
        values_(static_cast<std::size_t>(rows_ * cols_)) {
    const ConstMatrixRef all{values.data, values.dtype, 1, values.count, values.count};
    for_each_position(p, [&](std::int64_t i, std::int64_t j, std::int64_t at) {
      values_[static_cast<std::size_t>(transposed ? j * cols_ + i : i * cols_ + j)] =
          static_cast<float>(element(all, 0, at));
    });
  }
  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return DType::kF32; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    std::copy(values_.begin() + begin * cols_, values_.begin() + end * cols_,
              static_cast<float*>(out));
  }

 private:
  std::int64_t rows_, cols_;
  std::vector<float> values_;
};

}  // namespace

void block_linear_reference(const BlockPattern& pattern, ConstBlockValues values,
                            const SpmmArgs& args) {
  spmm_reference(DenseWeight(pattern, values, false), args);
}

void block_linear_transposed_reference(const BlockPattern& pattern, ConstBlockValues values,
                                       const SpmmArgs& args) {
  spmm_reference(DenseWeight(pattern, values, true), args);
}

void block_sddmm_reference(const BlockPattern& pattern, ConstMatrixRef p, ConstMatrixRef q,
                           std::span<double> out) {
  for_each_position(pattern, [&](std::int64_t i, std::int64_t j, std::int64_t at) {
    double sum = 0;
    for (std::int64_t t = 0; t < p.rows; ++t) sum += element(p, t, i) * element(q, t, j);
    out[static_cast<std::size_t>(at)] = sum;
  });
}

}  // namespace rarefy
