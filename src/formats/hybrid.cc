#include "formats/hybrid.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "formats/bitmap_tile.h"
#include "formats/check_arrays.h"

namespace rarefy {
namespace {

using Bits = std::uint16_t;
using Layout = bitmap::TileLayout<Bits>;
constexpr std::int64_t kStripRows = BitmapMatrix::kTileRows;

/// An order names every row (or column) once, within its scope.
void check_order(const Matrix& a, const char* array, const Buffer& order, std::int64_t count,
                 std::int64_t scope) {
  if (order.size() == 0) return;
  check_size(a, array, order, static_cast<std::size_t>(count) * sizeof(std::int32_t));
  std::vector<bool> seen(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t at = order.as<std::int32_t>()[i];
    const std::int64_t first = i / scope * scope;
    const std::int64_t last = std::min(count, first + scope) - 1;
    if (at < first || at > last || seen[static_cast<std::size_t>(at)])
      fail(ErrorKind::kCorrupt, "{} {}[{}]: expected each of {} to {} once, found {}",
           a.spec().name(), array, i, first, last, at);
    seen[static_cast<std::size_t>(at)] = true;
  }
}

/// Reads the tiles of a strip one after the other and finds what does not fit.
class StripCheck {
 public:
  StripCheck(const HybridMatrix& a, std::int64_t strip)
      : a_(a),
        strip_(strip),
        at_(a.strip(strip)),
        end_(a.strip(strip + 1)),
        live_rows_(std::clamp<std::int64_t>(a.rows() - strip * kStripRows, 0, kStripRows)) {}

  /// Returns the nonzeros of the tile at column tile `c`; `other` has the strip's rows of the
  /// sparse part.
  std::int64_t tile(std::int64_t c, const Bits* other) {
    if (end_ - at_ < static_cast<std::ptrdiff_t>(Layout::kMaskBytes)) fail_at(c, "has no masks");
    std::int64_t stored = 0;
    for (int group = 0; group < 16; ++group) {
      std::uint32_t mask;
      std::memcpy(&mask, at_ + group * sizeof mask, sizeof mask);
      stored += std::popcount(mask);
    }
    if (end_ - at_ - static_cast<std::ptrdiff_t>(Layout::kMaskBytes) <
        stored * static_cast<std::ptrdiff_t>(sizeof(Bits)))
      fail_at(c, "has values past the end of its strip");
    at_ = bitmap::for_each_value<Bits>(at_, [&](int row, std::int64_t col, Bits value) {
      const std::int64_t column = c * HybridMatrix::kTileCols + col;
      if (row >= live_rows_ || column >= a_.cols()) fail_at(c, "has a bit outside the matrix");
      if ((value & Layout::kMagnitude) == 0) fail_at(c, "has a stored zero");
      if (other[row * a_.cols() + column] != 0) fail_at(c, "has a value that the sparse part has");
    });
    return stored;
  }
  void end() const {
    if (at_ != end_)
      fail(ErrorKind::kCorrupt, "{} strip_offsets[{}]: expected {}, found {}", a_.spec().name(),
           strip_ + 1, at_ - a_.strip(0), end_ - a_.strip(0));
  }

 private:
  [[noreturn]] void fail_at(std::int64_t c, const char* what) const {
    fail(ErrorKind::kCorrupt, "{} stream: the tile of strip {} at column tile {} {}",
         a_.spec().name(), strip_, c, what);
  }

  const HybridMatrix& a_;
  std::int64_t strip_;
  const std::byte* at_;
  const std::byte* end_;
  std::int64_t live_rows_;
};

}  // namespace

HybridMatrix::HybridMatrix(const PackedShape& shape, Arrays arrays)
    : PackedMatrix(shape), arrays_(std::move(arrays)) {
  if (row_order() == nullptr) return;
  stored_row_.resize(static_cast<std::size_t>(rows()));
  const std::span<const std::int32_t> order = arrays_.row_order.span<std::int32_t>();
  for (std::size_t i = 0; i < order.size(); ++i) {
    // Damaged orders are `validate`'s to find.
    if (order[i] >= 0 && order[i] < rows())
      stored_row_[static_cast<std::size_t>(order[i])] = static_cast<std::int32_t>(i);
  }
}

void HybridMatrix::read_stored(std::int64_t begin, std::int64_t end, Bits* out) const {
  if (sparse() != nullptr) {
    sparse()->read_rows(begin, end, out);
  } else {
    std::fill_n(out, (end - begin) * cols(), Bits{0});
  }
  const std::int64_t s = begin / kStripRows;
  const std::int64_t first = begin - s * kStripRows;
  const std::int64_t last = end - s * kStripRows;
  const std::byte* tile = strip(s);
  for (std::int64_t i = pair_offsets()[s / 2]; i < pair_offsets()[s / 2 + 1]; ++i) {
    Bits* to = out + columns()[i] * kTileCols;
    tile = bitmap::for_each_value<Bits>(tile, [&](int row, std::int64_t col, Bits value) {
      if (row >= first && row < last) to[(row - first) * cols() + col] = value;
    });
  }
}

void HybridMatrix::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  auto* to = static_cast<Bits*>(out);
  std::vector<Bits> stored(static_cast<std::size_t>(kStripRows * cols()));
  const auto place = [&](std::int64_t r) {
    return stored_row_.empty() ? r : stored_row_[static_cast<std::size_t>(r)];
  };
  for (std::int64_t r = begin; r < end;) {
    // Rows that follow one another in the same strip are read at once.
    const std::int64_t first = place(r);
    std::int64_t count = 1;
    while (r + count < end && place(r + count) == first + count &&
           (first + count) % kStripRows != 0)
      ++count;
    read_stored(first, first + count, stored.data());
    const Bits* from = stored.data();
    for (std::int64_t i = 0; i < count; ++i, from += cols(), to += cols()) {
      if (col_order() == nullptr) {
        std::copy_n(from, cols(), to);
        continue;
      }
      for (std::int64_t c = 0; c < cols(); ++c) to[col_order()[c]] = from[c];
    }
    r += count;
  }
}

std::size_t HybridMatrix::bytes() const {
  return arrays_.row_order.size() + arrays_.col_order.size() + arrays_.pair_offsets.size() +
         arrays_.columns.size() + arrays_.strip_offsets.size() + arrays_.stream.size() +
         (sparse() != nullptr ? sparse()->bytes() : 0);
}

void HybridMatrix::validate() const {
  check_order(*this, "row_order", arrays_.row_order, rows(), kScope);
  check_order(*this, "col_order", arrays_.col_order, cols(), cols());
  const std::int64_t tiles = check_offsets(*this, "pair_offsets", arrays_.pair_offsets, pairs());
  check_size(*this, "columns", arrays_.columns,
             static_cast<std::size_t>(tiles) * sizeof(std::int32_t));
  const std::int64_t bytes =
      check_offsets(*this, "strip_offsets", arrays_.strip_offsets, 2 * pairs());
  check_size(*this, "stream", arrays_.stream, static_cast<std::size_t>(bytes) + kTailBytes);
  std::int64_t found = 0;
  if (sparse() != nullptr) {
    if (sparse()->rows() != rows() || sparse()->cols() != cols() || sparse()->dtype() != dtype())
      fail(ErrorKind::kCorrupt, "{} sparse: expected {}x{} {}, found {}x{} {}", spec().name(),
           rows(), cols(), to_string(dtype()), sparse()->rows(), sparse()->cols(),
           to_string(sparse()->dtype()));
    sparse()->validate();
    found += sparse()->nnz();
  }
  std::vector<Bits> other(static_cast<std::size_t>(kStripRows * cols()));
  for (std::int64_t s = 0; s < 2 * pairs(); ++s) {
    const std::int64_t begin = std::min(rows(), s * kStripRows);
    const std::int64_t end = std::min(rows(), begin + kStripRows);
    if (sparse() != nullptr) sparse()->read_rows(begin, end, other.data());
    StripCheck check(*this, s);
    std::int64_t last = -1;
    for (std::int64_t i = pair_offsets()[s / 2]; i < pair_offsets()[s / 2 + 1]; ++i) {
      const std::int64_t c = columns()[i];
      if (c <= last || c >= tiles_per_strip())
        fail(ErrorKind::kCorrupt, "{} columns[{}]: expected {} to {}, found {}", spec().name(), i,
             last + 1, tiles_per_strip() - 1, c);
      last = c;
      if (begin < end) found += check.tile(c, other.data());
    }
    check.end();
  }
  if (found != nnz())
    fail(ErrorKind::kCorrupt, "{}: expected {} nonzeros, found {}", spec().name(), nnz(), found);
}

}  // namespace rarefy
