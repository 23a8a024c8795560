#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "base/check.h"
#include "io/sparse_text.h"
#include "io/text_scanner.h"

namespace rarefy::io {
namespace {

enum class Field { kReal, kInteger, kPattern };
enum class Symmetry { kGeneral, kSymmetric, kSkew };

struct Banner {
  bool coordinate = true;
  Field field = Field::kReal;
  Symmetry symmetry = Symmetry::kGeneral;
};

struct Entry {
  std::int32_t row, col;
  float value;
};

std::vector<std::string> words_of(std::string_view line) {
  std::vector<std::string> words(1);
  for (const char c : line) {
    if (c == ' ' || c == '\t' || c == '\r') {
      if (!words.back().empty()) words.emplace_back();
    } else {
      words.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

Banner parse_banner(TextScanner& scan) {
  constexpr std::string_view kExpected =
      "%%MatrixMarket matrix coordinate|array real|integer|pattern "
      "general|symmetric|skew-symmetric";
  if (scan.remaining() < 2) scan.mismatch(std::string(kExpected));
  const TextScanner start = scan;
  const std::vector<std::string> words = words_of(scan.line());
  if (words.size() != 5 || words[0] != "%%matrixmarket") start.mismatch(std::string(kExpected));
  const auto unsupported = [&](const std::string& word) {
    fail(ErrorKind::kUnsupported, "{}:1: expected {}, found '{}'", scan.file_name(), kExpected,
         word);
  };
  Banner banner;
  if (words[1] != "matrix") unsupported(words[1]);
  banner.coordinate = words[2] == "coordinate";
  if (!banner.coordinate && words[2] != "array") unsupported(words[2]);
  if (words[3] == "integer") {
    banner.field = Field::kInteger;
  } else if (words[3] == "pattern") {
    banner.field = Field::kPattern;
  } else if (words[3] != "real" && words[3] != "double") {
    unsupported(words[3]);
  }
  if (words[4] == "symmetric") {
    banner.symmetry = Symmetry::kSymmetric;
  } else if (words[4] == "skew-symmetric") {
    banner.symmetry = Symmetry::kSkew;
  } else if (words[4] != "general") {
    unsupported(words[4]);
  }
  const bool nothing_to_negate =
      banner.symmetry == Symmetry::kSkew && banner.field == Field::kPattern;
  if (nothing_to_negate || (!banner.coordinate && banner.field == Field::kPattern)) {
    start.mismatch("a banner that fits together");
  }
  return banner;
}

float parse_value(TextScanner& scan, Field field) {
  // Integers up to 2^53 are exact on the way; a weight beyond is rounded like any other number.
  if (field == Field::kInteger) {
    constexpr std::int64_t kMost = std::int64_t{1} << 53;
    return static_cast<float>(scan.integer("an integer", -kMost, kMost));
  }
  return scan.real("a number");
}

/// Adds the entry and its mirror image.
void add(std::vector<Entry>& entries, const Banner& banner, Entry entry) {
  entries.push_back(entry);
  if (banner.symmetry == Symmetry::kGeneral || entry.row == entry.col) return;
  const float mirrored = banner.symmetry == Symmetry::kSkew ? -entry.value : entry.value;
  entries.push_back({entry.col, entry.row, mirrored});
}

std::vector<Entry> parse_coordinates(TextScanner& scan, const Banner& banner, std::int64_t rows,
                                     std::int64_t cols) {
  // "1 1" and the end of the line take four characters.
  const auto most = static_cast<std::int64_t>(scan.remaining() / 4 + 1);
  const std::int64_t count = scan.integer("a number of entries that the file can hold", 0, most);
  scan.end_of_line();
  std::vector<Entry> entries;
  entries.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    scan.skip_comments('%');
    Entry entry{};
    entry.row = static_cast<std::int32_t>(scan.integer("a row", 1, rows) - 1);
    entry.col = static_cast<std::int32_t>(scan.integer("a column", 1, cols) - 1);
    entry.value = banner.field == Field::kPattern ? 1.0F : parse_value(scan, banner.field);
    if (banner.symmetry == Symmetry::kSkew && entry.row == entry.col) {
      fail(ErrorKind::kCorrupt, "{}:{}: expected no diagonal in a skew-symmetric matrix, found {}",
           scan.file_name(), scan.line_number(), entry.row + 1);
    }
    scan.end_of_line();
    add(entries, banner, entry);
  }
  return entries;
}

/// Column by column; of a symmetric matrix the lower triangle, of a skew one without the diagonal.
std::vector<Entry> parse_array(TextScanner& scan, const Banner& banner, std::int64_t rows,
                               std::int64_t cols) {
  scan.end_of_line();
  std::vector<Entry> entries;
  if (rows == 0) return entries;
  for (std::int64_t c = 0; c < cols; ++c) {
    const std::int64_t first = banner.symmetry == Symmetry::kGeneral ? 0
                               : banner.symmetry == Symmetry::kSkew  ? c + 1
                                                                     : c;
    for (std::int64_t r = first; r < rows; ++r) {
      scan.skip_comments('%');
      const float value = parse_value(scan, banner.field);
      scan.end_of_line();
      if (value == 0.0F) continue;
      add(entries, banner, {static_cast<std::int32_t>(r), static_cast<std::int32_t>(c), value});
    }
  }
  return entries;
}

/// Entries in any order to CSR: by rows in one counting pass, then columns within each row.
void sort_into_rows(const std::vector<Entry>& entries, bool with_values, SparseText& matrix,
                    const std::string& file_name) {
  matrix.row_offsets.assign(static_cast<std::size_t>(matrix.rows) + 1, 0);
  for (const Entry& e : entries) ++matrix.row_offsets[static_cast<std::size_t>(e.row) + 1];
  for (std::size_t r = 0; r < static_cast<std::size_t>(matrix.rows); ++r) {
    matrix.row_offsets[r + 1] += matrix.row_offsets[r];
  }
  std::vector<std::pair<std::int32_t, float>> sorted(entries.size());
  std::vector<std::int64_t> next(matrix.row_offsets.begin(), matrix.row_offsets.end() - 1);
  for (const Entry& e : entries) {
    sorted[static_cast<std::size_t>(next[static_cast<std::size_t>(e.row)]++)] = {e.col, e.value};
  }
  const auto by_column = [](const auto& a, const auto& b) { return a.first < b.first; };
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    const auto begin = sorted.begin() + matrix.row_offsets[static_cast<std::size_t>(r)];
    const auto end = sorted.begin() + matrix.row_offsets[static_cast<std::size_t>(r) + 1];
    if (!std::is_sorted(begin, end, by_column)) std::sort(begin, end, by_column);
    const auto twice = std::adjacent_find(
        begin, end, [](const auto& a, const auto& b) { return a.first == b.first; });
    if (twice != end) {
      fail(ErrorKind::kCorrupt, "{}: expected each place once, found row {}, column {} twice",
           file_name, r + 1, twice->first + 1);
    }
  }
  matrix.col_indices.reserve(sorted.size());
  if (with_values) matrix.values.reserve(sorted.size());
  for (const auto& [col, value] : sorted) {
    matrix.col_indices.push_back(col);
    if (with_values) matrix.values.push_back(value);
  }
}

}  // namespace

SparseText parse_matrix_market(std::string_view text, const std::string& file_name) {
  TextScanner scan(text, file_name);
  const Banner banner = parse_banner(scan);
  scan.skip_comments('%');
  SparseText matrix;
  matrix.rows = scan.integer("a number of rows", 0, kMostRows);
  matrix.cols = scan.integer("a number of columns", 0, kMostCols);
  if (banner.symmetry != Symmetry::kGeneral && matrix.rows != matrix.cols) {
    fail(ErrorKind::kCorrupt, "{}:{}: expected a square matrix to be symmetric, found {}x{}",
         file_name, scan.line_number(), matrix.rows, matrix.cols);
  }
  const std::vector<Entry> entries = banner.coordinate
                                         ? parse_coordinates(scan, banner, matrix.rows, matrix.cols)
                                         : parse_array(scan, banner, matrix.rows, matrix.cols);
  scan.skip_comments('%');
  scan.end_of_text();
  sort_into_rows(entries, banner.field != Field::kPattern, matrix, file_name);
  return matrix;
}

}  // namespace rarefy::io
