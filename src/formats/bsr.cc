#include "formats/bsr.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "formats/packers.h"
#include "formats/panels.h"

namespace rarefy {
namespace {

constexpr std::int64_t kMaxBlockSide = 4096;

/// Which blocks of each block row hold a nonzero: one bit a block, whole words a block row.
class BlockMask {
 public:
  BlockMask(std::int64_t grid_rows, std::int64_t grid_cols)
      : words_((grid_cols + 63) / 64), bits_(static_cast<std::size_t>(grid_rows * words_)) {}
  [[nodiscard]] std::uint64_t* row(std::int64_t r) {
    return bits_.data() + static_cast<std::size_t>(r * words_);
  }
  [[nodiscard]] std::int64_t count(std::int64_t r) {
    std::int64_t total = 0;
    for (std::int64_t w = 0; w < words_; ++w) total += std::popcount(row(r)[w]);
    return total;
  }
  template <class Body>
  void for_each(std::int64_t r, Body&& body) {
    for (std::int64_t w = 0; w < words_; ++w)
      for_each_bit(row(r)[w], [&](int bit) { body(w * 64 + bit); });
  }

 private:
  std::int64_t words_;
  std::vector<std::uint64_t> bits_;
};

/// Packs what the panel of one block row holds of block column `column` into `out`.
void pack_block(const std::byte* panel, std::int64_t rows, std::int64_t cols, std::int64_t column,
                const FormatSpec& spec, DType dtype, std::byte* out) {
  const std::size_t element = size_of(dtype);
  const std::int64_t width = spec.block_cols;
  const std::int64_t first = column * width;
  const std::int64_t present = std::min(width, cols - first);
  const std::byte* from = panel + static_cast<std::size_t>(first) * element;
  if (Bsr::in_strips(spec, dtype)) {
    const std::size_t strip_bytes = static_cast<std::size_t>(kStripRows * width) * element;
    for (std::int64_t r = 0; r < spec.block_rows; r += kStripRows, out += strip_bytes) {
      const std::int64_t strip_rows = std::clamp<std::int64_t>(rows - r, 0, kStripRows);
      pack_strip(from + static_cast<std::size_t>(r * cols) * element, dtype, cols, strip_rows,
                 present, width, out);
    }
    return;
  }
  std::memset(out, 0, static_cast<std::size_t>(spec.block_rows * width) * element);
  for (std::int64_t r = 0; r < rows; ++r) {
    copy_without_negative_zeros(from + static_cast<std::size_t>(r * cols) * element, dtype, present,
                                out + static_cast<std::size_t>(r * width) * element);
  }
}

}  // namespace

Bsr::Bsr(std::int64_t rows, std::int64_t cols, DType dtype, const FormatSpec& spec,
         std::int64_t nnz, Arrays arrays)
    : rows_(rows), cols_(cols), dtype_(dtype), spec_(spec), nnz_(nnz), arrays_(std::move(arrays)) {}

std::size_t Bsr::bytes() const {
  return arrays_.row_offsets.size() * sizeof(std::int64_t) +
         arrays_.columns.size() * sizeof(std::int32_t) + arrays_.values.size();
}

void Bsr::read_block(std::int64_t i, std::int64_t begin, std::int64_t end, std::int64_t cols,
                     std::byte* to) const {
  const std::size_t element = size_of(dtype_);
  const std::size_t row_bytes = static_cast<std::size_t>(cols_) * element;
  if (!in_strips()) {
    for (std::int64_t r = begin; r < end; ++r, to += row_bytes)
      std::memcpy(to, block(i) + static_cast<std::size_t>(r * block_cols()) * element,
                  static_cast<std::size_t>(cols) * element);
    return;
  }
  while (begin < end) {
    const std::int64_t s = begin / kStripRows;
    const std::int64_t stop = std::min(end, (s + 1) * kStripRows);
    const std::byte* strip =
        block(i) + static_cast<std::size_t>(s * kStripRows * block_cols()) * element;
    unpack_strip(strip, dtype_, begin - s * kStripRows, stop - s * kStripRows, cols, to, cols_);
    to += static_cast<std::size_t>(stop - begin) * row_bytes;
    begin = stop;
  }
}

void Bsr::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  const std::size_t element = size_of(dtype_);
  const std::size_t row_bytes = static_cast<std::size_t>(cols_) * element;
  auto* to = static_cast<std::byte*>(out);
  if (end > begin && row_bytes != 0)
    std::memset(to, 0, static_cast<std::size_t>(end - begin) * row_bytes);
  while (begin < end) {
    const std::int64_t grid_row = begin / block_rows();
    const std::int64_t first = grid_row * block_rows();
    const std::int64_t stop = std::min(end, first + block_rows());
    for (std::int64_t i = row_offsets()[grid_row]; i < row_offsets()[grid_row + 1]; ++i) {
      const std::int64_t col = columns()[i] * block_cols();
      read_block(i, begin - first, stop - first, std::min(block_cols(), cols_ - col),
                 to + static_cast<std::size_t>(col) * element);
    }
    to += static_cast<std::size_t>(stop - begin) * row_bytes;
    begin = stop;
  }
}

void Bsr::validate() const {
  const std::string name = spec_.name();
  const std::int64_t blocks = static_cast<std::int64_t>(arrays_.columns.size());
  if (static_cast<std::int64_t>(arrays_.row_offsets.size()) != grid_rows() + 1)
    fail(ErrorKind::kCorrupt, "{} row_offsets: expected {} entries, found {}", name,
         grid_rows() + 1, arrays_.row_offsets.size());
  if (arrays_.values.size() != static_cast<std::size_t>(blocks) * block_bytes())
    fail(ErrorKind::kCorrupt, "{} values: expected {} bytes for {} blocks, found {}", name,
         static_cast<std::size_t>(blocks) * block_bytes(), blocks, arrays_.values.size());
  if (row_offsets()[0] != 0)
    fail(ErrorKind::kCorrupt, "{} row_offsets[0]: expected 0, found {}", name, row_offsets()[0]);
  for (std::int64_t r = 0; r < grid_rows(); ++r) {
    const std::int64_t begin = row_offsets()[r];
    const std::int64_t end = row_offsets()[r + 1];
    if (end < begin || end > blocks)
      fail(ErrorKind::kCorrupt, "{} row_offsets[{}]: expected {} to {}, found {}", name, r + 1,
           begin, blocks, end);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t least = i == begin ? 0 : std::int64_t{columns()[i - 1]} + 1;
      if (columns()[i] < least || columns()[i] >= grid_cols())
        fail(ErrorKind::kCorrupt, "{} columns[{}]: expected {} to {}, found {}", name, i, least,
             grid_cols() - 1, columns()[i]);
    }
  }
  if (row_offsets()[grid_rows()] != blocks)
    fail(ErrorKind::kCorrupt, "{} row_offsets[{}]: expected {}, found {}", name, grid_rows(),
         blocks, row_offsets()[grid_rows()]);

  std::int64_t inside = 0;
  Buffer row(static_cast<std::size_t>(cols_) * size_of(dtype_));
  for (std::int64_t r = 0; r < rows_; ++r) {
    read_rows(r, r + 1, row.data());
    inside += count_nonzeros(row.data(), dtype_, cols_);
  }
  const std::int64_t stored =
      count_nonzeros(arrays_.values.data(), dtype_, blocks * block_rows() * block_cols());
  if (stored != inside)
    fail(ErrorKind::kCorrupt, "{} values: expected zeros outside {}x{}, found {} nonzeros", name,
         rows_, cols_, stored - inside);
  if (inside != nnz_)
    fail(ErrorKind::kCorrupt, "{} values: expected {} nonzeros, found {}", name, nnz_, inside);
}

Support can_pack_bsr(const FormatSpec& spec, std::int64_t, std::int64_t cols, DType) {
  if (spec.block_rows > kMaxBlockSide || spec.block_cols > kMaxBlockSide)
    return Support::no(fmt::format("blocks are at most {0}x{0}, got {1}x{2}", kMaxBlockSide,
                                   spec.block_rows, spec.block_cols));
  constexpr std::int64_t kMaxColumn = std::numeric_limits<std::int32_t>::max();
  if (cols > kMaxColumn)
    return Support::no(fmt::format("bsr needs K <= {}, got {}", kMaxColumn, cols));
  return Support::yes();
}

MatrixPtr pack_bsr(const RowSource& source, const FormatSpec& spec, DType dtype, ThreadPool& pool) {
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const std::int64_t height = spec.block_rows;
  const std::int64_t grid_rows = (rows + height - 1) / height;
  const std::int64_t grid_cols = (cols + spec.block_cols - 1) / spec.block_cols;
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * size_of(dtype);

  // First pass: which blocks hold anything.
  BlockMask used(grid_rows, grid_cols);
  std::atomic<std::int64_t> nnz{0};
  for_each_panel(
      source, dtype, height, pool, [&](std::int64_t begin, std::int64_t end, const void* values) {
        const auto words = static_cast<std::size_t>((cols + 63) / 64);
        std::vector<std::uint64_t> any(words);
        std::vector<std::uint64_t> mask(words);
        std::int64_t found = 0;
        for (std::int64_t r = begin; r < end; ++r) {
          const auto* row = static_cast<const std::byte*>(values) +
                            static_cast<std::size_t>(r - begin) * row_bytes;
          found += nonzero_mask(row, dtype, cols, mask.data());
          for (std::size_t w = 0; w < words; ++w) any[w] |= mask[w];
        }
        nnz += found;
        std::uint64_t* bits = used.row(begin / height);
        for (std::size_t w = 0; w < words; ++w) {
          for_each_bit(any[w], [&](int bit) {
            const std::int64_t column = (static_cast<std::int64_t>(w) * 64 + bit) / spec.block_cols;
            bits[column / 64] |= std::uint64_t{1} << (column % 64);
          });
        }
      });

  Bsr::Arrays arrays;
  arrays.row_offsets.resize(static_cast<std::size_t>(grid_rows + 1));
  for (std::int64_t r = 0; r < grid_rows; ++r) {
    const auto i = static_cast<std::size_t>(r);
    arrays.row_offsets[i + 1] = arrays.row_offsets[i] + used.count(r);
  }
  const auto blocks = static_cast<std::size_t>(arrays.row_offsets.back());
  const std::size_t block_bytes =
      static_cast<std::size_t>(height * spec.block_cols) * size_of(dtype);
  arrays.columns.resize(blocks);
  arrays.values = Buffer(blocks * block_bytes);

  // Second pass: the blocks themselves.
  for_each_panel(
      source, dtype, height, pool, [&](std::int64_t begin, std::int64_t end, const void* values) {
        auto i =
            static_cast<std::size_t>(arrays.row_offsets[static_cast<std::size_t>(begin / height)]);
        used.for_each(begin / height, [&](std::int64_t column) {
          arrays.columns[i] = static_cast<std::int32_t>(column);
          pack_block(static_cast<const std::byte*>(values), end - begin, cols, column, spec, dtype,
                     arrays.values.data() + i * block_bytes);
          ++i;
        });
      });
  return std::make_shared<Bsr>(rows, cols, dtype, spec, nnz.load(), std::move(arrays));
}

}  // namespace rarefy
