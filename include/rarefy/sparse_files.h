// Text files of sparse matrices: .smtx of the Deep Learning Matrix Collection and MatrixMarket
// .mtx.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "rarefy/tensor.h"

namespace rarefy {

/// A sparse matrix as text files carry it: CSR with columns ascending in each row.
struct SparseText {
  std::int64_t rows = 0, cols = 0;
  std::vector<std::int64_t> row_offsets;  ///< rows + 1
  std::vector<std::int32_t> col_indices;
  std::vector<float> values;  ///< Empty for a pattern (.smtx, or a MatrixMarket "pattern").
};

/// By ending: .smtx, .mtx (coordinate real/integer/pattern, general, symmetric or skew-symmetric;
/// or array, of which zeros are left out). At most 2^26 rows. Throws `Error` with file and line.
SparseText read_sparse_text(const std::filesystem::path& path);

/// .smtx keeps the pattern alone; .mtx values too. Written under a temporary name, then renamed.
void write_sparse_text(const std::filesystem::path& path, const SparseText& matrix);

/// As a weight of `dtype`: values from the file, or drawn from N(0, 1) by `seed` where the file has
/// none (never so small that they would round to zero). Throws `Error` unless `text` is the CSR it
/// claims to be.
class SparseTextSource final : public RowSource {
 public:
  SparseTextSource(SparseText text, DType dtype, std::uint64_t seed);
  [[nodiscard]] std::int64_t rows() const override { return text_.rows; }
  [[nodiscard]] std::int64_t cols() const override { return text_.cols; }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;

 private:
  SparseText text_;
  DType dtype_;
};

}  // namespace rarefy
