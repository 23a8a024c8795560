#include "formats/bitmap.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "formats/bitmap_tile.h"
#include "formats/packers.h"
#include "formats/panels.h"

namespace rarefy {
namespace {

using bitmap::dispatch_width;
using bitmap::TileLayout;
using bitmap::write_tile;

/// Packs the rows of one block. Each tile is copied together first: row strides are often multiples
/// of 4 KiB, and 16 such lines do not fit the 12 ways of an L1 set.
template <class Bits>
std::byte* write_block(const Bits* panel, std::int64_t panel_rows, std::int64_t cols,
                       std::byte* out) {
  using L = TileLayout<Bits>;
  Bits tile[16 * L::kTileCols] = {};
  for (std::int64_t column = 0; column < cols; column += L::kTileCols) {
    const std::int64_t live = std::min<std::int64_t>(L::kTileCols, cols - column);
    if (live < L::kTileCols) std::fill(std::begin(tile), std::end(tile), Bits{0});
    for (std::int64_t r = 0; r < panel_rows; ++r)
      std::memcpy(tile + r * L::kTileCols, panel + r * cols + column,
                  static_cast<std::size_t>(live) * sizeof(Bits));
    out = write_tile(tile, out);
  }
  return out;
}

template <class Bits>
void read_block(const std::byte* tile, std::int64_t cols, int first_row, int last_row, Bits* out) {
  std::fill_n(out, (last_row - first_row) * cols, Bits{0});
  for (std::int64_t column = 0; column < cols; column += TileLayout<Bits>::kTileCols) {
    tile = bitmap::for_each_value<Bits>(tile, [&](int row, std::int64_t c, Bits value) {
      if (row >= first_row && row < last_row) out[(row - first_row) * cols + column + c] = value;
    });
  }
}

}  // namespace

BitmapMatrix::BitmapMatrix(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t nnz,
                           Buffer stream, Buffer offsets)
    : rows_(rows),
      cols_(cols),
      dtype_(dtype),
      nnz_(nnz),
      stream_(std::move(stream)),
      offsets_(std::move(offsets)) {}

void BitmapMatrix::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  dispatch_width(dtype_, [&](auto zero) {
    using Bits = decltype(zero);
    auto* to = static_cast<Bits*>(out);
    for (std::int64_t row = begin; row < end;) {
      const std::int64_t first = row / kTileRows * kTileRows;
      const std::int64_t stop = std::min(end, first + kTileRows);
      read_block(block(row / kTileRows), cols_, static_cast<int>(row - first),
                 static_cast<int>(stop - first), to);
      to += (stop - row) * cols_;
      row = stop;
    }
  });
}

void BitmapMatrix::validate() const {
  const auto corrupt = [](const std::string& what) {
    fail(ErrorKind::kCorrupt, "bitmap {}", what);
  };
  const auto blocks = static_cast<std::size_t>(row_blocks());
  if (offsets().size() != blocks + 1)
    corrupt(fmt::format("offsets: expected {}, found {}", blocks + 1, offsets().size()));
  if (offsets()[0] != 0) corrupt(fmt::format("offsets[0]: expected 0, found {}", offsets()[0]));
  if (offsets()[blocks] + kTailBytes != stream_.size()) {
    corrupt(fmt::format("stream: expected {} bytes by its offsets, found {}",
                        offsets()[blocks] + kTailBytes, stream_.size()));
  }
  for (std::size_t b = 0; b < blocks; ++b) {
    if (offsets()[b] > offsets()[b + 1])
      corrupt(
          fmt::format("offsets[{}]: {} exceeds the next, {}", b, offsets()[b], offsets()[b + 1]));
  }
  std::int64_t found = 0;
  dispatch_width(dtype_, [&](auto zero) {
    using Bits = decltype(zero);
    using L = TileLayout<Bits>;
    for (std::int64_t b = 0; b < row_blocks(); ++b) {
      std::uint64_t at = offsets()[static_cast<std::size_t>(b)];
      const std::uint64_t end = offsets()[static_cast<std::size_t>(b) + 1];
      const std::int64_t live_rows = std::min(kTileRows, rows_ - b * kTileRows);
      for (std::int64_t t = 0; t < tiles_per_block(); ++t) {
        if (at + L::kMaskBytes > end)
          corrupt(fmt::format("block {}: tile {} starts past the end of its block", b, t));
        std::int64_t stored = 0;
        for (int group = 0; group < 16; ++group) {
          typename L::Mask mask;
          std::memcpy(&mask, stream_.data() + at + group * sizeof mask, sizeof mask);
          stored += std::popcount(mask);
          for_each_bit(mask, [&](int lane) {
            const std::int64_t column =
                t * L::kTileCols + group * L::kColsPerGroup + lane % L::kColsPerGroup;
            if (lane / L::kColsPerGroup >= live_rows || column >= cols_)
              corrupt(fmt::format("block {} tile {}: mask {} has bit {} outside {}x{}", b, t, group,
                                  lane, rows_, cols_));
          });
        }
        at += L::kMaskBytes;
        if (static_cast<std::uint64_t>(stored) * sizeof(Bits) > end - at)
          corrupt(fmt::format("block {}: values of tile {} run past the end of the block", b, t));
        for (std::int64_t i = 0; i < stored; ++i, at += sizeof(Bits)) {
          Bits value;
          std::memcpy(&value, stream_.data() + at, sizeof value);
          if ((value & L::kMagnitude) == 0)
            corrupt(fmt::format("block {} tile {}: value {} is a stored zero", b, t, i));
        }
        found += stored;
      }
      if (at != end)
        corrupt(fmt::format("block {}: ends at byte {}, its masks say {}", b, end, at));
    }
  });
  if (found != nnz_) corrupt(fmt::format("masks: expected {} nonzeros, found {}", nnz_, found));
}

Support can_pack_bitmap(const FormatSpec&, std::int64_t, std::int64_t, DType) {
  return Support::yes();
}

MatrixPtr pack_bitmap(const RowSource& source, const FormatSpec&, DType dtype, ThreadPool& pool) {
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const std::int64_t blocks = (rows + 15) / 16;
  const std::size_t element = size_of(dtype);
  const std::int64_t tile_cols = BitmapMatrix::bitmap_tile_cols(dtype);
  const std::size_t masks_of_block =
      static_cast<std::size_t>((cols + tile_cols - 1) / tile_cols) * (element == 4 ? 32 : 64);

  // Sizes first: a block's bytes follow from its count, so that all blocks can be written at once.
  Buffer offsets_buffer(static_cast<std::size_t>(blocks + 1) * sizeof(std::uint64_t));
  const std::span<std::uint64_t> offsets = offsets_buffer.span<std::uint64_t>();
  for_each_panel(
      source, dtype, 16, pool, [&](std::int64_t begin, std::int64_t end, const void* values) {
        offsets[static_cast<std::size_t>(begin / 16) + 1] =
            static_cast<std::uint64_t>(count_nonzeros(values, dtype, (end - begin) * cols));
      });
  offsets[0] = 0;
  std::uint64_t nnz = 0;
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    nnz += offsets[b];
    offsets[b] = offsets[b - 1] + masks_of_block + offsets[b] * element;
  }

  // Each block is written into scratch of its own and copied: a tile's writer stores one value past
  // its end, which would fall into the next block while another thread writes it.
  Buffer stream(offsets[offsets.size() - 1] + BitmapMatrix::kTailBytes);
  std::memset(stream.data() + offsets[offsets.size() - 1], 0, BitmapMatrix::kTailBytes);
  dispatch_width(dtype, [&](auto zero) {
    using Bits = decltype(zero);
    std::atomic<std::int64_t> next{0};
    pool.run([&](int) {
      PanelReader reader(source, dtype);
      Buffer block(masks_of_block + 16 * static_cast<std::size_t>(cols) * sizeof(Bits) +
                   sizeof(Bits));
      for (std::int64_t b = next++; b < blocks; b = next++) {
        const std::int64_t begin = b * 16;
        const std::int64_t end = std::min(rows, begin + 16);
        const std::byte* stop = write_block(static_cast<const Bits*>(reader.read(begin, end)),
                                            end - begin, cols, block.data());
        std::memcpy(stream.data() + offsets[static_cast<std::size_t>(b)], block.data(),
                    static_cast<std::size_t>(stop - block.data()));
      }
    });
  });
  return std::make_shared<BitmapMatrix>(rows, cols, dtype, static_cast<std::int64_t>(nnz),
                                        std::move(stream), std::move(offsets_buffer));
}

}  // namespace rarefy
