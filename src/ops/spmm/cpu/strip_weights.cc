#include "ops/spmm/cpu/strip_weights.h"

#include <algorithm>

#include "formats/bsr.h"
#include "formats/dense_tiles.h"

namespace rarefy::strip {

Weights::Weights(const Matrix& a)
    : column_bytes_(kOutputs * static_cast<std::int64_t>(size_of(a.dtype()))) {
  if (a.spec().format == Format::kDense) {
    const auto& dense = static_cast<const DenseTiles&>(a);
    values_ = dense.strip(0);
    strips_ = dense.strips();
    width_ = DenseTiles::tile_cols(a.dtype());
    padded_k_ = dense.tiles_per_strip() * width_;
    strip_bytes_ = padded_k_ * column_bytes_;
    return;
  }
  const auto& bsr = static_cast<const Bsr&>(a);
  values_ = bsr.block(0);
  row_offsets_ = bsr.row_offsets();
  columns_ = bsr.columns();
  block_rows_ = bsr.grid_rows();
  row_strips_ = bsr.block_rows() / kOutputs;
  strips_ = (bsr.rows() + kOutputs - 1) / kOutputs;
  width_ = bsr.block_cols();
  padded_k_ = bsr.grid_cols() * width_;
  block_bytes_ = static_cast<std::int64_t>(bsr.block_bytes());
  strip_bytes_ = width_ * column_bytes_;
}

std::int32_t Weights::strips_together(std::int64_t s, std::int64_t end, std::int32_t wanted) const {
  std::int64_t room = end - s;
  if (row_offsets_ != nullptr) room = std::min(room, row_strips_ - s % row_strips_);
  while (wanted > room) wanted /= 2;
  return wanted;
}

Unit Weights::unit(std::int64_t s, std::int32_t count, std::int64_t k_begin,
                   std::int64_t k_end) const {
  if (row_offsets_ == nullptr) {
    return {.values = values_ + s * strip_bytes_ + k_begin * column_bytes_,
            .columns = nullptr,
            .block_stride = 0,
            .strip_stride = strip_bytes_,
            .width = k_end - k_begin,
            .first_k = k_begin,
            .blocks = 1,
            .strips = count,
            .sums = nullptr,
            .add = false};
  }
  const std::int64_t row = s / row_strips_;
  const std::int32_t* row_begin = columns_ + row_offsets_[row];
  const std::int32_t* row_end = columns_ + row_offsets_[row + 1];
  const std::int32_t* begin = std::lower_bound(row_begin, row_end, k_begin / width_);
  const std::int32_t* end = std::lower_bound(begin, row_end, k_end / width_);
  // Without blocks there may be no values at all to point into.
  const std::byte* values =
      begin == end ? nullptr
                   : values_ + (begin - columns_) * block_bytes_ + s % row_strips_ * strip_bytes_;
  return {.values = values,
          .columns = begin,
          .block_stride = block_bytes_,
          .strip_stride = strip_bytes_,
          .width = width_,
          .first_k = 0,
          .blocks = static_cast<std::int32_t>(end - begin),
          .strips = count,
          .sums = nullptr,
          .add = false};
}

std::int64_t Weights::cut(std::int64_t part, std::int64_t parts) const {
  // Dense parts begin at whole groups of four strips, which are read together.
  if (row_offsets_ == nullptr) return std::min(strips_, (strips_ + 3) / 4 * part / parts * 4);
  // An empty block row still has results to write; that costs about as much as a block.
  const auto weight = [this](std::int64_t row) { return row_offsets_[row] + row; };
  std::int64_t low = 0;
  std::int64_t high = block_rows_;
  const std::int64_t target = weight(block_rows_) * part / parts;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (weight(middle) < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return std::min(strips_, low * row_strips_);
}

}  // namespace rarefy::strip
