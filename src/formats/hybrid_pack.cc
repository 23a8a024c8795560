// Packing a hybrid: nonzeros of every tile are counted, blocks are classed by their sums, then
// tiles are written and what is left is packed as compressed sparse blocks.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "formats/bitmap_tile.h"
#include "formats/hybrid.h"
#include "formats/hybrid_order.h"
#include "formats/hybrid_shares.h"
#include "formats/packers.h"
#include "formats/panels.h"

namespace rarefy {
namespace {

using Bits = std::uint16_t;
constexpr std::int64_t kPairRows = HybridMatrix::kPairRows;
constexpr std::int64_t kTileCols = HybridMatrix::kTileCols;
constexpr std::int64_t kStripRows = BitmapMatrix::kTileRows;
constexpr std::int64_t kMaskBytes = 64;

/// What every 32×32 part of the weight holds and where it goes.
class Cells {
 public:
  Cells(const RowSource& source, const FormatSpec& spec, ThreadPool& pool)
      : rows_(source.rows()),
        cols_(source.cols()),
        across_((cols_ + kTileCols - 1) / kTileCols),
        counts_(static_cast<std::size_t>((rows_ + kStripRows - 1) / kStripRows * across_)),
        in_tiles_(static_cast<std::size_t>((rows_ + kPairRows - 1) / kPairRows * across_)) {
    count(source, pool);
    classify(spec);
  }
  [[nodiscard]] std::int64_t across() const { return across_; }
  /// Nonzeros of the tile of strip `s` at column tile `c`.
  [[nodiscard]] std::int64_t count(std::int64_t s, std::int64_t c) const {
    return counts_[static_cast<std::size_t>(s * across_ + c)];
  }
  [[nodiscard]] bool in_tiles(std::int64_t pair, std::int64_t c) const {
    return in_tiles_[static_cast<std::size_t>(pair * across_ + c)] != 0;
  }
  [[nodiscard]] bool any_sparse() const { return any_sparse_; }

 private:
  void count(const RowSource& source, ThreadPool& pool) {
    for_each_panel(source, source.dtype(), kStripRows, pool,
                   [&](std::int64_t begin, std::int64_t end, const void* values) {
                     std::vector<std::uint64_t> masks(static_cast<std::size_t>(cols_ / 64 + 2));
                     std::uint16_t* to = counts_.data() + begin / kStripRows * across_;
                     const auto* row = static_cast<const Bits*>(values);
                     for (std::int64_t r = begin; r < end; ++r, row += cols_) {
                       nonzero_mask(row, source.dtype(), cols_, masks.data());
                       for (std::int64_t c = 0; c < across_; ++c) {
                         const std::uint64_t word = masks[static_cast<std::size_t>(c / 2)];
                         to[c] = static_cast<std::uint16_t>(
                             to[c] + std::popcount(static_cast<std::uint32_t>(word >> c % 2 * 32)));
                       }
                     }
                   });
  }

  void classify(const FormatSpec& spec) {
    const std::int64_t pairs = (rows_ + kPairRows - 1) / kPairRows;
    const std::int64_t high = spec.block_rows / kPairRows;
    const std::int64_t wide = spec.block_cols / kTileCols;
    for (std::int64_t p = 0; p < pairs; p += high) {
      for (std::int64_t c = 0; c < across_; c += wide)
        classify_block(p, std::min(pairs, p + high), c, std::min(across_, c + wide), spec);
    }
  }
  void classify_block(std::int64_t p0, std::int64_t p1, std::int64_t c0, std::int64_t c1,
                      const FormatSpec& spec) {
    const auto of_pair = [&](std::int64_t p, std::int64_t c) {
      const bool both = (2 * p + 1) * kStripRows < rows_;
      return count(2 * p, c) + (both ? count(2 * p + 1, c) : 0);
    };
    std::int64_t nnz = 0;
    for (std::int64_t p = p0; p < p1; ++p) {
      for (std::int64_t c = c0; c < c1; ++c) nnz += of_pair(p, c);
    }
    const std::int64_t positions = (std::min(rows_, p1 * kPairRows) - p0 * kPairRows) *
                                   (std::min(cols_, c1 * kTileCols) - c0 * kTileCols);
    if (is_sparse_block(nnz, positions, spec.sparse_below)) {
      any_sparse_ = any_sparse_ || nnz > 0;
      return;
    }
    for (std::int64_t p = p0; p < p1; ++p) {
      for (std::int64_t c = c0; c < c1; ++c)
        in_tiles_[static_cast<std::size_t>(p * across_ + c)] = of_pair(p, c) > 0 ? 1 : 0;
    }
  }

  std::int64_t rows_, cols_, across_;
  std::vector<std::uint16_t> counts_;
  std::vector<std::uint8_t> in_tiles_;
  bool any_sparse_ = false;
};

/// What tiles do not hold.
class SparseSource final : public RowSource {
 public:
  SparseSource(const RowSource& source, const Cells& cells) : source_(source), cells_(cells) {}
  [[nodiscard]] std::int64_t rows() const override { return source_.rows(); }
  [[nodiscard]] std::int64_t cols() const override { return source_.cols(); }
  [[nodiscard]] DType dtype() const override { return source_.dtype(); }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    source_.read_rows(begin, end, out);
    auto* row = static_cast<Bits*>(out);
    for (std::int64_t r = begin; r < end; ++r, row += cols()) {
      for (std::int64_t c = 0; c < cells_.across(); ++c) {
        if (!cells_.in_tiles(r / kPairRows, c)) continue;
        const std::int64_t first = c * kTileCols;
        std::fill(row + first, row + std::min(cols(), first + kTileCols), Bits{0});
      }
    }
  }

 private:
  const RowSource& source_;
  const Cells& cells_;
};

/// Offsets of pairs and strips, and the columns of the tiles.
std::int64_t lay_out(const Cells& cells, std::int64_t rows, HybridMatrix::Arrays& arrays) {
  const std::int64_t pairs = (rows + kPairRows - 1) / kPairRows;
  const std::int64_t strips = (rows + kStripRows - 1) / kStripRows;
  arrays.pair_offsets = Buffer(static_cast<std::size_t>(pairs + 1) * sizeof(std::int64_t));
  arrays.strip_offsets = Buffer(static_cast<std::size_t>(2 * pairs + 1) * sizeof(std::uint64_t));
  auto* pair_offsets = arrays.pair_offsets.as<std::int64_t>();
  auto* strip_offsets = arrays.strip_offsets.as<std::uint64_t>();
  std::vector<std::int32_t> columns;
  std::int64_t nnz = 0;
  pair_offsets[0] = 0;
  strip_offsets[0] = 0;
  for (std::int64_t p = 0; p < pairs; ++p) {
    const auto first = static_cast<std::size_t>(pair_offsets[p]);
    for (std::int64_t c = 0; c < cells.across(); ++c) {
      if (cells.in_tiles(p, c)) columns.push_back(static_cast<std::int32_t>(c));
    }
    pair_offsets[p + 1] = std::ssize(columns);
    for (std::int64_t s = 2 * p; s < 2 * p + 2; ++s) {
      std::int64_t bytes = 0;
      for (std::size_t i = first; s < strips && i < columns.size(); ++i) {
        const std::int64_t count = cells.count(s, columns[i]);
        bytes += kMaskBytes + count * std::int64_t{sizeof(Bits)};
        nnz += count;
      }
      strip_offsets[s + 1] = strip_offsets[s] + static_cast<std::uint64_t>(bytes);
    }
  }
  arrays.columns = Buffer(columns.size() * sizeof(std::int32_t));
  std::copy(columns.begin(), columns.end(), arrays.columns.as<std::int32_t>());
  return nnz;
}

/// Writes the tiles of a strip, given its rows, through `scratch`: a tile's writer stores one value
/// past its end.
void write_strip(const Bits* values, std::int64_t rows, std::int64_t cols,
                 std::span<const std::int32_t> columns, std::byte* scratch, std::byte* to) {
  Bits tile[kStripRows * kTileCols];
  std::byte* end = scratch;
  for (const std::int32_t c : columns) {
    const std::int64_t first = c * kTileCols;
    const std::int64_t live = std::min(kTileCols, cols - first);
    std::fill(std::begin(tile), std::end(tile), Bits{0});
    for (std::int64_t r = 0; r < rows; ++r)
      std::copy_n(values + r * cols + first, live, tile + r * kTileCols);
    end = bitmap::write_tile(tile, end);
  }
  std::memcpy(to, scratch, static_cast<std::size_t>(end - scratch));
}

Buffer buffer_of(const std::vector<std::int32_t>& order) {
  Buffer buffer(order.size() * sizeof(std::int32_t));
  std::copy(order.begin(), order.end(), buffer.as<std::int32_t>());
  return buffer;
}

}  // namespace

Support can_pack_hybrid(const FormatSpec& spec, std::int64_t, std::int64_t, DType dtype) {
  if (dtype != DType::kBF16)
    return Support::no(fmt::format("hybrid weights are bf16, got {}", to_string(dtype)));
  if (spec.block_rows <= 0 || spec.block_cols <= 0 || spec.block_rows % kPairRows != 0 ||
      spec.block_cols % kTileCols != 0)
    return Support::no(fmt::format("blocks of a hybrid are multiples of {}x{}, got {}x{}",
                                   kPairRows, kTileCols, spec.block_rows, spec.block_cols));
  if (spec.sparse_below < 0 || spec.sparse_below > 1025)
    return Support::no(
        fmt::format("a hybrid is sparse below 0 to 1025 of 1024, got {}", spec.sparse_below));
  return Support::yes();
}

MatrixPtr pack_hybrid(const RowSource& source, const FormatSpec& spec, DType dtype,
                      ThreadPool& pool) {
  const StoredOrder order =
      order_by_nonzeros(source, dtype, spec.sort_rows, HybridMatrix::kScope, spec.sort_cols, pool);
  const OrderedSource stored(source, dtype, order);
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const Cells cells(stored, spec, pool);

  HybridMatrix::Arrays arrays;
  arrays.row_order = buffer_of(order.rows);
  arrays.col_order = buffer_of(order.cols);
  std::int64_t nnz = lay_out(cells, rows, arrays);
  const auto* strip_offsets = arrays.strip_offsets.as<std::uint64_t>();
  const auto* pair_offsets = arrays.pair_offsets.as<std::int64_t>();
  const std::int64_t pairs = (rows + kPairRows - 1) / kPairRows;
  const auto stream_bytes = static_cast<std::size_t>(strip_offsets[2 * pairs]);
  arrays.stream = Buffer(stream_bytes + HybridMatrix::kTailBytes);
  std::memset(arrays.stream.data() + stream_bytes, 0, HybridMatrix::kTailBytes);
  for_each_panel(stored, dtype, kStripRows, pool,
                 [&](std::int64_t begin, std::int64_t end, const void* values) {
                   const std::int64_t s = begin / kStripRows;
                   const auto first = static_cast<std::size_t>(pair_offsets[s / 2]);
                   const auto last = static_cast<std::size_t>(pair_offsets[s / 2 + 1]);
                   Buffer scratch(strip_offsets[s + 1] - strip_offsets[s] + sizeof(Bits));
                   write_strip(static_cast<const Bits*>(values), end - begin, cols,
                               arrays.columns.span<std::int32_t>().subspan(first, last - first),
                               scratch.data(), arrays.stream.data() + strip_offsets[s]);
                 });
  if (cells.any_sparse()) {
    arrays.sparse = std::dynamic_pointer_cast<const CsbMatrix>(
        pack_csb(SparseSource(stored, cells), format::kCsb, dtype, pool));
    nnz += arrays.sparse->nnz();
  }
  return std::make_shared<HybridMatrix>(PackedShape{spec, rows, cols, dtype, nnz},
                                        std::move(arrays));
}

}  // namespace rarefy
