#include "formats/dense_rows.h"

#include <cstring>
#include <utility>

#include "base/check.h"
#include "formats/packers.h"
#include "formats/panels.h"

namespace rarefy {

DenseRows::DenseRows(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t nnz,
                     Buffer values)
    : storage_(std::move(values)), ref_{storage_.data(), dtype, rows, cols, cols}, nnz_(nnz) {}

DenseRows::DenseRows(ConstMatrixRef ref, std::int64_t nnz, std::shared_ptr<const void> owner)
    : owner_(std::move(owner)), ref_(ref), nnz_(nnz) {}

void DenseRows::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  DenseSource(ref_).read_rows(begin, end, out);
}

const void* DenseRows::dense_data() const {
  return ref_.row_stride == ref_.cols ? ref_.data : nullptr;
}

std::size_t DenseRows::bytes() const {
  return static_cast<std::size_t>(ref_.rows) * static_cast<std::size_t>(ref_.cols) *
         size_of(ref_.dtype);
}

void DenseRows::validate() const {
  std::int64_t found = 0;
  for (std::int64_t r = 0; r < ref_.rows; ++r) {
    const auto* row = static_cast<const std::byte*>(ref_.data) +
                      static_cast<std::size_t>(r * ref_.row_stride) * size_of(ref_.dtype);
    found += count_nonzeros(row, ref_.dtype, ref_.cols);
  }
  if (found != nnz_)
    fail(ErrorKind::kCorrupt, "dense values: expected {} nonzeros, found {}", nnz_, found);
}

Support can_pack_dense_rows(const FormatSpec&, std::int64_t, std::int64_t, DType) {
  return Support::yes();
}

MatrixPtr pack_dense_rows(const RowSource& source, const FormatSpec&, DType dtype,
                          ThreadPool& pool) {
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * size_of(dtype);
  Buffer values(static_cast<std::size_t>(rows) * row_bytes);
  for_each_panel(source, dtype, default_panel_rows(source, dtype), pool,
                 [&](std::int64_t begin, std::int64_t end, const void* panel) {
                   const std::size_t bytes = static_cast<std::size_t>(end - begin) * row_bytes;
                   if (bytes != 0)
                     std::memcpy(values.data() + static_cast<std::size_t>(begin) * row_bytes, panel,
                                 bytes);
                 });
  const DenseSource packed({values.data(), dtype, rows, cols, cols});
  const std::int64_t nnz = count_nonzeros(packed, dtype, pool);
  return std::make_shared<DenseRows>(rows, cols, dtype, nnz, std::move(values));
}

MatrixPtr borrow_dense(ConstMatrixRef ref, std::shared_ptr<const void> owner, ThreadPool& pool) {
  const DenseSource source(ref);  // Checks dtype and strides.
  const std::int64_t nnz = count_nonzeros(source, ref.dtype, pool);
  return std::make_shared<DenseRows>(ref, nnz, std::move(owner));
}

}  // namespace rarefy
