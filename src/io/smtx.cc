#include <algorithm>

#include "base/check.h"
#include "io/sparse_text.h"
#include "io/text_scanner.h"

namespace rarefy::io {

SparseText parse_smtx(std::string_view text, const std::string& file_name) {
  TextScanner scan(text, file_name);
  SparseText matrix;
  matrix.rows = scan.integer("a number of rows", 0, kMostRows);
  matrix.cols = scan.integer("a number of columns", 0, kMostCols);
  // A number takes a character and a separator at least: bounds what a lying header allocates.
  const auto most = static_cast<std::int64_t>(scan.remaining() / 2 + 1);
  const std::int64_t nnz = scan.integer("a number of nonzeros that the file can hold", 0, most);
  scan.end_of_line();
  if (matrix.rows > most) {
    fail(ErrorKind::kCorrupt, "{}:1: expected at most {} rows in a file of this size, found {}",
         file_name, most, matrix.rows);
  }

  matrix.row_offsets.reserve(static_cast<std::size_t>(matrix.rows) + 1);
  std::int64_t previous = 0;
  for (std::int64_t r = 0; r <= matrix.rows; ++r) {
    const std::int64_t least = r == matrix.rows ? nnz : previous;
    previous = scan.integer("an ascending row offset", least, r == 0 ? 0 : nnz);
    matrix.row_offsets.push_back(previous);
  }
  scan.end_of_line();

  matrix.col_indices.resize(static_cast<std::size_t>(nnz));
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    const auto begin = matrix.col_indices.begin() + matrix.row_offsets[static_cast<std::size_t>(r)];
    const auto end =
        matrix.col_indices.begin() + matrix.row_offsets[static_cast<std::size_t>(r) + 1];
    for (auto at = begin; at != end; ++at) {
      *at = static_cast<std::int32_t>(scan.integer("a column index", 0, matrix.cols - 1));
    }
    if (!std::is_sorted(begin, end)) std::sort(begin, end);
    if (const auto twice = std::adjacent_find(begin, end); twice != end) {
      fail(ErrorKind::kCorrupt, "{}:3: row {}: expected distinct columns, found {} twice",
           file_name, r, *twice);
    }
  }
  scan.end_of_text();
  return matrix;
}

}  // namespace rarefy::io
