// The two text formats of sparse matrices, apart from where the text comes from.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "rarefy/sparse_files.h"

namespace rarefy::io {

/// Row offsets take 8 bytes a row before anything is known to be true, so rows are bounded.
inline constexpr std::int64_t kMostRows = std::int64_t{1} << 26;
inline constexpr std::int64_t kMostCols = (std::int64_t{1} << 31) - 1;

/// .smtx: "rows, cols, nnz", the rows + 1 row offsets, the column indices; a line each.
SparseText parse_smtx(std::string_view text, const std::string& file_name);
/// MatrixMarket: coordinate or array; real, integer or pattern; general, symmetric or
/// skew-symmetric.
SparseText parse_matrix_market(std::string_view text, const std::string& file_name);

/// Throws kInvalidArgument unless `matrix` is the CSR that it claims to be.
void check_sparse_text(const SparseText& matrix);

}  // namespace rarefy::io
