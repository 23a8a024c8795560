// Weights in memory: one class for every storage format, packed once, immutable afterwards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rarefy/dtype.h"
#include "rarefy/error.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy {

enum class Format : std::uint8_t {
  kDense,   ///< Row-major, or packed in tiles (see FormatSpec::block_rows).
  kCsr,     ///< Compressed sparse rows; columns in 32 or 16 bits.
  kBitmap,  ///< One bit a position and the nonzeros, interleaved in one stream tile by tile.
  kDelta,   ///< Row lists of gaps between nonzeros in 4 or 8 bits, with escapes.
  kWindow,  ///< Lists of nonzeros cut by windows of 128 columns, for gathers from registers.
  kCsb,     ///< Row lists in blocks of 256×128, for many tokens.
  kSell,    ///< Sliced ELL: slices of 16 rows sorted by length, gaps of 8 or 16 bits.
  kNm,      ///< N of every M consecutive columns.
  kBsr,     ///< Dense blocks of any shape at sparse places.
  kHybrid,  ///< Bitmap tiles where there are many nonzeros, compressed sparse blocks where there
            ///< are few, nothing where there are none.
};

/// A format and its parameters: all that is needed to pack a weight. Comparable, printable,
/// parsable.
struct FormatSpec {
  Format format = Format::kDense;
  int index_bits = 0;  ///< kCsr: 32 or 16. kDelta: 4 or 8. kSell: 8 or 16. Otherwise 0.
  int block_rows = 0;  ///< kBsr, kHybrid: block height. kDense: 0 for row-major, or the tile height
                       ///< (16) when packed in tiles.
  int block_cols = 0;  ///< kBsr, kHybrid: block width. kDense: 0, or the tile width (32 for 16-bit
                       ///< values, 16 for f32).
  int n = 0, m = 0;    ///< kNm: n stored of every m.
  int sparse_below = 0;    ///< kHybrid: blocks with fewer nonzeros than this of 1024 positions lie
                           ///< in lists, the others in tiles.
  bool sort_rows = false;  ///< kHybrid: rows of each 128 lie in the order of their nonzeros.
  bool sort_cols = false;  ///< kHybrid: columns, too.

  bool operator==(const FormatSpec&) const = default;

  /// "dense", "dense16x32", "csr", "csr16", "bitmap", "window", "csb", "delta4", "delta8",
  /// "sell8", "sell16", "2:4", "bsr16x32", "hybrid64x64-27-rows-cols" (sparse below 27 of 1024,
  /// rows and columns sorted).
  [[nodiscard]] std::string name() const;
  /// The inverse of name(); nullopt when it names no format.
  static std::optional<FormatSpec> parse(std::string_view name);
};

namespace format {
inline constexpr FormatSpec kDense{};
inline constexpr FormatSpec kCsr32{Format::kCsr, 32};
inline constexpr FormatSpec kCsr16{Format::kCsr, 16};
inline constexpr FormatSpec kBitmap{Format::kBitmap};
inline constexpr FormatSpec kDelta4{Format::kDelta, 4};
inline constexpr FormatSpec kDelta8{Format::kDelta, 8};
inline constexpr FormatSpec kWindow{Format::kWindow};
inline constexpr FormatSpec kCsb{Format::kCsb};
inline constexpr FormatSpec kSell8{Format::kSell, 8};
inline constexpr FormatSpec kSell16{Format::kSell, 16};
constexpr FormatSpec dense_tiles(int rows, int cols) {
  return {Format::kDense, 0, rows, cols};
}
constexpr FormatSpec nm(int n, int m) {
  return {Format::kNm, 0, 0, 0, n, m};
}
constexpr FormatSpec bsr(int rows, int cols) {
  return {Format::kBsr, 0, rows, cols};
}
constexpr FormatSpec hybrid(int rows, int cols, int sparse_below, bool sort_rows = false,
                            bool sort_cols = false) {
  return {Format::kHybrid, 0, rows, cols, 0, 0, sparse_below, sort_rows, sort_cols};
}
}  // namespace format

/// A packed weight. A matrix is also a RowSource, which is how any format converts into any other.
///
/// A value is stored when it is not zero; -0.0 is a zero. Formats that store whole blocks or rows
/// store the zeros inside them too, and reading them back gives +0 for every zero, whatever its
/// sign was (row-major kDense keeps the bits as they came).
class Matrix : public RowSource {
 public:
  [[nodiscard]] virtual const FormatSpec& spec() const = 0;

  /// Nonzero values, counted once when packing; stored padding and stored zeros do not count.
  [[nodiscard]] virtual std::int64_t nnz() const = 0;

  /// Exact bytes that the structure keeps in memory: every array, with its padding.
  [[nodiscard]] virtual std::size_t bytes() const = 0;

  /// Checks every offset, index, count and order; throws `Error` (kCorrupt) that names the array
  /// and the place.
  virtual void validate() const = 0;

  [[nodiscard]] double density() const {
    const double positions = static_cast<double>(rows()) * static_cast<double>(cols());
    return positions > 0 ? static_cast<double>(nnz()) / positions : 0.0;
  }
};

using MatrixPtr = std::shared_ptr<const Matrix>;

/// Whether a weight of `rows`×`cols` and `dtype` can be stored in `spec` at all ("csr16 needs K <=
/// 65536, got 128256"). N:M depends on the values too: `pack` checks those.
Support can_pack(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, DType dtype);

/// Packs any source, a matrix of another format included, in the source's dtype; all of `pool`
/// works on it. Deterministic. Throws `Error`: kUnsupported when `can_pack` says no or the values
/// break an N:M pattern.
MatrixPtr pack(const RowSource& source, const FormatSpec& spec, ThreadPool& pool = default_pool());

/// The same, rounding the values to `dtype` on the way.
MatrixPtr pack(const RowSource& source, const FormatSpec& spec, DType dtype,
               ThreadPool& pool = default_pool());

/// A row-major dense matrix that borrows `ref` (a mapped file, say) instead of copying; `owner`
/// keeps that memory alive.
MatrixPtr borrow_dense(ConstMatrixRef ref, std::shared_ptr<const void> owner,
                       ThreadPool& pool = default_pool());

/// How the nonzeros of a weight lie, as far as plans and pictures need it: collected in one pass
/// over the source.
struct PatternStats {
  std::int64_t rows = 0, cols = 0, nnz = 0;
  std::vector<std::int32_t> row_nnz;  ///< One a row.
  int block_rows = 16,
      block_cols = 32;  ///< Block grid of the counts below; edge blocks may be smaller.
  std::vector<std::uint16_t>
      block_nnz;  ///< ceil(rows/block_rows) × ceil(cols/block_cols), row-major.

  /// Blocks of a smaller shape that hold a nonzero.
  struct UsedBlocks {
    int rows = 0, cols = 0;
    std::int64_t count = 0;
  };
  std::vector<UsedBlocks> used_blocks;  ///< Of 16×16, 8×8 and 4×4.

  [[nodiscard]] double density() const;
  [[nodiscard]] double block_density() const;  ///< Share of blocks that hold a nonzero.
  /// Share of rows×cols blocks that hold a nonzero: counted for multiples of the block grid and the
  /// shapes of `used_blocks`, otherwise as if nonzeros lay at random within a block of the grid.
  [[nodiscard]] double block_share(int rows_of_block, int cols_of_block) const;
  /// Hash of shape, nnz, a 16-bin histogram of block densities and 9 quantiles of row_nnz: the
  /// pattern part of a plan's key.
  [[nodiscard]] std::uint64_t fingerprint() const;
};

PatternStats pattern_stats(const RowSource& source, ThreadPool& pool = default_pool());

}  // namespace rarefy
