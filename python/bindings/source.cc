#include "source.h"

#include <nanobind/stl/shared_ptr.h>

#include <algorithm>

#include "base/check.h"

namespace nb = nanobind;

namespace rarefy::python {

SourceArgument::SourceArgument(const ArrayArgument& weight, const char* name) {
  if (std::shared_ptr<Packed> packed; nb::try_cast(weight, packed, false) && packed != nullptr) {
    rows_ = packed->matrix();
    return;
  }
  if (Source* source = nullptr; nb::try_cast(weight, source, false) && source != nullptr) {
    rows_ = source->rows;
    return;
  }
  array_.emplace(weight, name);
  const ConstMatrixRef dense = array_->matrix();
  require(is_compute_dtype(dense.dtype), "{}: expected f32, f16 or bf16, got {}", name,
          array_->describe());
  rows_ = std::make_shared<DenseSource>(dense);
}

void read_dense(const RowSource& source, const ArrayArgument& out_argument) {
  const Array out = Array::output(out_argument, "out");
  const MatrixRef to = out.mutable_matrix();
  require(to.rows == source.rows() && to.cols == source.cols() && is_compute_dtype(to.dtype),
          "out: expected f32, f16 or bf16 [{}, {}], got {}", source.rows(), source.cols(),
          out.describe());
  if (to.rows == 0 || to.cols == 0) return;
  const nb::gil_scoped_release unlocked;
  constexpr std::int64_t kPanel = 64;
  const std::size_t row_bytes = static_cast<std::size_t>(to.cols) * size_of(source.dtype());
  const std::int64_t panels = (to.rows + kPanel - 1) / kPanel;
  default_pool().parallel_dynamic(panels, 1, [&](std::int64_t first, std::int64_t last) {
    Buffer rows(static_cast<std::size_t>(kPanel) * row_bytes);
    for (std::int64_t begin = first * kPanel; begin < std::min(to.rows, last * kPanel);
         begin += kPanel) {
      const std::int64_t end = std::min(to.rows, begin + kPanel);
      source.read_rows(begin, end, rows.data());
      for (std::int64_t r = begin; r < end; ++r) {
        auto* row = static_cast<std::byte*>(to.data) +
                    static_cast<std::size_t>(r * to.row_stride) * size_of(to.dtype);
        convert_elements(rows.data() + static_cast<std::size_t>(r - begin) * row_bytes,
                         source.dtype(), row, to.dtype, static_cast<std::size_t>(to.cols));
      }
    }
  });
}

}  // namespace rarefy::python
