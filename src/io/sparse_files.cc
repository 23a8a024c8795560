#include "rarefy/sparse_files.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <numbers>
#include <utility>

#include "base/check.h"
#include "base/files.h"
#include "io/sparse_text.h"

namespace rarefy {
namespace {

enum class FileKind { kSmtx, kMatrixMarket };

FileKind kind_of(const std::filesystem::path& path) {
  const std::string ending = path.extension().string();
  if (ending == ".smtx") return FileKind::kSmtx;
  if (ending == ".mtx") return FileKind::kMatrixMarket;
  fail(ErrorKind::kUnsupported, "{}: expected a file that ends in .smtx or .mtx, found '{}'",
       path.string(), ending);
}

/// Collects text and passes it on in large pieces.
class TextSink {
 public:
  explicit TextSink(AtomicFile& file) : file_(file) {}
  template <class Number>
  void number(Number value, char after) {
    char digits[32];
    const auto [end, error] = std::to_chars(digits, digits + sizeof digits, value);
    text_.append(digits, end);
    text(std::string_view(&after, 1));
  }
  void text(std::string_view text) {
    text_ += text;
    if (text_.size() >= kPiece) flush();
  }
  void flush() {
    file_.write(text_);
    text_.clear();
  }

 private:
  static constexpr std::size_t kPiece = std::size_t{1} << 20;
  AtomicFile& file_;
  std::string text_;
};

void write_smtx(TextSink& sink, const SparseText& matrix) {
  sink.number(matrix.rows, ',');
  sink.text(" ");
  sink.number(matrix.cols, ',');
  sink.text(" ");
  sink.number(matrix.col_indices.size(), '\n');
  for (std::size_t r = 0; r < matrix.row_offsets.size(); ++r) {
    sink.number(matrix.row_offsets[r], r + 1 == matrix.row_offsets.size() ? '\n' : ' ');
  }
  for (std::size_t i = 0; i < matrix.col_indices.size(); ++i) {
    sink.number(matrix.col_indices[i], i + 1 == matrix.col_indices.size() ? '\n' : ' ');
  }
}

void write_matrix_market(TextSink& sink, const SparseText& matrix) {
  const bool pattern = matrix.values.empty() && !matrix.col_indices.empty();
  sink.text("%%MatrixMarket matrix coordinate ");
  sink.text(pattern ? "pattern general\n" : "real general\n");
  sink.number(matrix.rows, ' ');
  sink.number(matrix.cols, ' ');
  sink.number(matrix.col_indices.size(), '\n');
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    const auto row = static_cast<std::size_t>(r);
    for (auto i = static_cast<std::size_t>(matrix.row_offsets[row]);
         i < static_cast<std::size_t>(matrix.row_offsets[row + 1]); ++i) {
      sink.number(r + 1, ' ');
      sink.number(matrix.col_indices[i] + 1, pattern ? '\n' : ' ');
      if (!pattern) sink.number(matrix.values[i], '\n');
    }
  }
}

/// A well-mixed number for each (seed, index): draws don't depend on their order.
std::uint64_t mix(std::uint64_t seed, std::uint64_t index) {  // splitmix64
  std::uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

/// N(0, 1) by Box and Muller, never so small that a weight of any dtype would round to zero.
float draw_normal(std::uint64_t seed, std::uint64_t index) {
  constexpr double kUnit = 0x1p-53;
  const double radius = (static_cast<double>(mix(seed, 2 * index) >> 11) + 0.5) * kUnit;
  const double angle = static_cast<double>(mix(seed, 2 * index + 1) >> 11) * kUnit;
  const double value =
      std::sqrt(-2.0 * std::log(radius)) * std::cos(2.0 * std::numbers::pi * angle);
  constexpr double kSmallest = 0x1p-14;  // the smallest normal of f16
  return static_cast<float>(std::abs(value) < kSmallest ? std::copysign(kSmallest, value) : value);
}

template <class Element>
void scatter(const SparseText& text, std::int64_t begin, std::int64_t end, Element* out) {
  std::fill(out, out + (end - begin) * text.cols, Element{});
  for (std::int64_t r = begin; r < end; ++r, out += text.cols) {
    for (std::int64_t i = text.row_offsets[static_cast<std::size_t>(r)];
         i < text.row_offsets[static_cast<std::size_t>(r) + 1]; ++i) {
      const auto at = static_cast<std::size_t>(i);
      out[text.col_indices[at]] = convert<Element>(text.values[at]);
    }
  }
}

}  // namespace

void io::check_sparse_text(const SparseText& matrix) {
  require(
      matrix.rows >= 0 && matrix.rows <= kMostRows && matrix.cols >= 0 && matrix.cols <= kMostCols,
      "sparse matrix: expected at most {}x{}, got {}x{}", kMostRows, kMostCols, matrix.rows,
      matrix.cols);
  const auto& offsets = matrix.row_offsets;
  const auto nnz = static_cast<std::int64_t>(matrix.col_indices.size());
  require(static_cast<std::int64_t>(offsets.size()) == matrix.rows + 1,
          "sparse matrix: expected {} row offsets, got {}", matrix.rows + 1, offsets.size());
  require(offsets.front() == 0 && offsets.back() == nnz &&
              std::is_sorted(offsets.begin(), offsets.end()),
          "sparse matrix: expected row offsets to ascend from 0 to {}, got {} to {}", nnz,
          offsets.front(), offsets.back());
  require(matrix.values.empty() || matrix.values.size() == matrix.col_indices.size(),
          "sparse matrix: expected {} values or none, got {}", nnz, matrix.values.size());
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    const auto row = static_cast<std::size_t>(r);
    std::int64_t previous = -1;
    for (std::int64_t i = offsets[row]; i < offsets[row + 1]; ++i) {
      const std::int64_t col = matrix.col_indices[static_cast<std::size_t>(i)];
      require(col > previous && col < matrix.cols,
              "sparse matrix: row {}: expected ascending columns below {}, got {} after {}", r,
              matrix.cols, col, previous);
      previous = col;
    }
  }
}

SparseText read_sparse_text(const std::filesystem::path& path) {
  const FileKind kind = kind_of(path);
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  return kind == FileKind::kSmtx ? io::parse_smtx(text, path.string())
                                 : io::parse_matrix_market(text, path.string());
}

void write_sparse_text(const std::filesystem::path& path, const SparseText& matrix) {
  const FileKind kind = kind_of(path);
  io::check_sparse_text(matrix);
  AtomicFile file(path);
  TextSink sink(file);
  kind == FileKind::kSmtx ? write_smtx(sink, matrix) : write_matrix_market(sink, matrix);
  sink.flush();
  file.commit();
}

SparseTextSource::SparseTextSource(SparseText text, DType dtype, std::uint64_t seed)
    : text_(std::move(text)), dtype_(dtype) {
  require(is_compute_dtype(dtype), "sparse text: expected f32, f16 or bf16, got {}",
          to_string(dtype));
  io::check_sparse_text(text_);
  if (!text_.values.empty()) return;
  text_.values.resize(text_.col_indices.size());
  for (std::size_t i = 0; i < text_.values.size(); ++i) text_.values[i] = draw_normal(seed, i);
}

void SparseTextSource::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  switch (dtype_) {
    case DType::kF16:
      return scatter(text_, begin, end, static_cast<Float16*>(out));
    case DType::kBF16:
      return scatter(text_, begin, end, static_cast<BFloat16*>(out));
    default:
      return scatter(text_, begin, end, static_cast<float*>(out));
  }
}

}  // namespace rarefy
