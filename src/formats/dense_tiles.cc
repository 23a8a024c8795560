#include "formats/dense_tiles.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/check.h"
#include "formats/packers.h"
#include "formats/panels.h"

namespace rarefy {
namespace {

FormatSpec tiles_of(DType dtype) {
  return format::dense_tiles(static_cast<int>(kStripRows),
                             static_cast<int>(DenseTiles::tile_cols(dtype)));
}

}  // namespace

DenseTiles::DenseTiles(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t nnz,
                       Buffer values)
    : rows_(rows),
      cols_(cols),
      dtype_(dtype),
      nnz_(nnz),
      spec_(tiles_of(dtype)),
      values_(std::move(values)) {}

void DenseTiles::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  const std::size_t row_bytes = static_cast<std::size_t>(cols_) * size_of(dtype_);
  auto* to = static_cast<std::byte*>(out);
  for (std::int64_t r = begin; r < end;) {
    const std::int64_t s = r / kStripRows;
    const std::int64_t stop = std::min(end, (s + 1) * kStripRows);
    // Tiles of a strip follow one another in its order, so that they unpack as one wide tile.
    unpack_strip(strip(s), dtype_, r - s * kStripRows, stop - s * kStripRows, cols_, to, cols_);
    to += static_cast<std::size_t>(stop - r) * row_bytes;
    r = stop;
  }
}

void DenseTiles::validate() const {
  const std::int64_t expected = strips() * tiles_per_strip() * kTileBytes;
  if (static_cast<std::int64_t>(values_.size()) != expected)
    fail(ErrorKind::kCorrupt, "{} values: expected {} bytes, found {}", spec_.name(), expected,
         values_.size());
  const std::int64_t width = tiles_per_strip() * tile_cols(dtype_);
  const auto strip_bytes = static_cast<std::size_t>(width * kStripRows) * size_of(dtype_);
  std::int64_t stored = 0;
  std::int64_t inside = 0;
  Buffer rows(strip_bytes);
  for (std::int64_t s = 0; s < strips(); ++s) {
    const std::int64_t count = std::min(kStripRows, rows_ - s * kStripRows);
    read_rows(s * kStripRows, s * kStripRows + count, rows.data());
    inside += count_nonzeros(rows.data(), dtype_, count * cols_);
    stored += count_nonzeros(strip(s), dtype_, width * kStripRows);
  }
  if (stored != inside)
    fail(ErrorKind::kCorrupt, "{} values: expected zeros in the padding, found {} nonzeros",
         spec_.name(), stored - inside);
  if (inside != nnz_)
    fail(ErrorKind::kCorrupt, "{} values: expected {} nonzeros, found {}", spec_.name(), nnz_,
         inside);
}

Support can_pack_dense_tiles(const FormatSpec& spec, std::int64_t, std::int64_t, DType dtype) {
  const FormatSpec tiles = tiles_of(dtype);
  if (spec == tiles) return Support::yes();
  return Support::no(
      fmt::format("dense tiles of {} are {}, got {}", to_string(dtype), tiles.name(), spec.name()));
}

MatrixPtr pack_dense_tiles(const RowSource& source, const FormatSpec&, DType dtype,
                           ThreadPool& pool) {
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const std::int64_t tile = DenseTiles::tile_cols(dtype);
  const std::int64_t width = (cols + tile - 1) / tile * tile;
  const std::int64_t strips = (rows + kStripRows - 1) / kStripRows;
  const std::size_t strip_bytes = static_cast<std::size_t>(width * kStripRows) * size_of(dtype);
  Buffer values(static_cast<std::size_t>(strips) * strip_bytes);
  std::atomic<std::int64_t> nnz{0};
  for_each_panel(source, dtype, kStripRows, pool,
                 [&](std::int64_t begin, std::int64_t end, const void* panel) {
                   nnz += count_nonzeros(panel, dtype, (end - begin) * cols);
                   pack_strip(
                       panel, dtype, cols, end - begin, cols, width,
                       values.data() + static_cast<std::size_t>(begin / kStripRows) * strip_bytes);
                 });
  return std::make_shared<DenseTiles>(rows, cols, dtype, nnz.load(), std::move(values));
}

}  // namespace rarefy
