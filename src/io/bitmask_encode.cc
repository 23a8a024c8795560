#include "io/bitmask_encode.h"

#include <algorithm>

#include "io/bitmask_kernels.h"

namespace rarefy::io {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{256} << 10;  // dense bytes of a piece: fits L2
constexpr std::int64_t kPiecesPerThread = 8;

/// Some rows, as one thread encodes them.
struct Piece {
  Buffer dense, values;
  std::size_t stored = 0;  ///< Elements in `values`.
};

}  // namespace

EncodedBitmask encode_bitmask(const RowSource& source, ThreadPool& pool,
                              const std::function<void(const void*, std::size_t)>& write) {
  const std::int64_t rows = source.rows();
  const auto cols = static_cast<std::size_t>(source.cols());
  const std::size_t element = size_of(source.dtype());
  const std::size_t row_bytes = cols * element;
  const std::size_t mask_bytes = (cols + 7) / 8;
  const auto compress = element == 2 ? bitmask_kernels().compress16 : bitmask_kernels().compress32;
  const auto piece_rows = static_cast<std::int64_t>(
      std::max<std::size_t>(kPieceBytes / std::max<std::size_t>(row_bytes, 1), 1));
  const auto* in_place = static_cast<const std::byte*>(source.dense_data());

  EncodedBitmask out;
  out.bitmask.resize(static_cast<std::size_t>(rows) * mask_bytes);
  out.row_offsets.resize(static_cast<std::size_t>(rows));
  std::vector<Piece> pieces(static_cast<std::size_t>(pool.size() * kPiecesPerThread));
  const std::int64_t batch_rows = piece_rows * static_cast<std::int64_t>(pieces.size());

  const auto encode = [&](Piece& piece, std::int64_t begin, std::int64_t end) {
    const std::size_t bytes = static_cast<std::size_t>(end - begin) * row_bytes;
    if (piece.values.size() < bytes) piece.values = Buffer(bytes);
    const std::byte* dense = nullptr;
    if (in_place != nullptr) {
      dense = in_place + static_cast<std::size_t>(begin) * row_bytes;
    } else {
      if (piece.dense.size() < bytes) piece.dense = Buffer(bytes);
      source.read_rows(begin, end, piece.dense.data());
      dense = piece.dense.data();
    }
    piece.stored = 0;
    for (std::int64_t r = begin; r < end; ++r, dense += row_bytes) {
      auto* mask = reinterpret_cast<std::uint8_t*>(out.bitmask.data()) +
                   static_cast<std::size_t>(r) * mask_bytes;
      const std::size_t stored =
          compress(dense, cols, piece.values.data() + piece.stored * element, mask);
      out.row_offsets[static_cast<std::size_t>(r)] = static_cast<std::int64_t>(stored);
      piece.stored += stored;
    }
  };

  for (std::int64_t at = 0; at < rows; at += batch_rows) {
    const std::int64_t stop = std::min(at + batch_rows, rows);
    const std::int64_t used = (stop - at + piece_rows - 1) / piece_rows;
    pool.parallel_dynamic(used, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t begin = at + i * piece_rows;
        encode(pieces[static_cast<std::size_t>(i)], begin, std::min(begin + piece_rows, stop));
      }
    });
    for (std::int64_t i = 0; i < used; ++i) {
      const Piece& piece = pieces[static_cast<std::size_t>(i)];
      write(piece.values.data(), piece.stored * element);
    }
  }
  for (std::int64_t& offset : out.row_offsets) {  // counts until here
    const std::int64_t count = offset;
    offset = out.values;
    out.values += count;
  }
  return out;
}

}  // namespace rarefy::io
