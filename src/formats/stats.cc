// One pass over a weight: nonzeros a row and a block, and a hash of how they lie.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <iterator>
#include <span>

#include "formats/block_counts.h"
#include "formats/panels.h"
#include "rarefy/matrix.h"

namespace rarefy {
namespace {

/// FNV-1a over 64-bit words: stable between runs and machines, which std::hash is not.
class Hash {
 public:
  void add(std::uint64_t word) {
    for (int byte = 0; byte < 8; ++byte, word >>= 8) {
      state_ ^= word & 0xFF;
      state_ *= 0x100000001B3ULL;
    }
  }
  [[nodiscard]] std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xCBF29CE484222325ULL;
};

std::int64_t blocks_along(std::int64_t length, std::int64_t block) {
  return (length + block - 1) / block;
}

/// Bits of `word` that begin a run of `width` (4, 8 or 16) bits of which any is set.
int used_runs(std::uint64_t word, int width) {
  for (int shift = 1; shift < width; shift *= 2) word |= word >> shift;
  const std::uint64_t starts = width == 4   ? 0x1111111111111111ULL
                               : width == 8 ? 0x0101010101010101ULL
                                            : 0x0001000100010001ULL;
  return std::popcount(word & starts);
}

/// Square blocks of one size in a panel of rows: masks of rows are gathered until a block is full.
class BlockCounter {
 public:
  BlockCounter(int size, std::size_t words) : size_(size), seen_(words) {}
  void add_row(std::span<const std::uint64_t> masks) {
    for (std::size_t w = 0; w < seen_.size(); ++w) seen_[w] |= masks[w];
    if (++rows_ == size_) close();
  }
  /// Ends the blocks of the rows so far.
  void close() {
    for (std::uint64_t& word : seen_) {
      used_ += used_runs(word, size_);
      word = 0;
    }
    rows_ = 0;
  }
  [[nodiscard]] std::int64_t used() const { return used_; }

 private:
  int size_;
  int rows_ = 0;
  std::vector<std::uint64_t> seen_;
  std::int64_t used_ = 0;
};

constexpr int kSmallBlocks[] = {16, 8, 4};

}  // namespace

double PatternStats::density() const {
  const double positions = static_cast<double>(rows) * static_cast<double>(cols);
  return positions > 0 ? static_cast<double>(nnz) / positions : 0.0;
}

double PatternStats::block_density() const {
  if (block_nnz.empty()) {  // Not collected: what a uniform pattern would have.
    return 1.0 - std::pow(1.0 - density(), block_rows * block_cols);
  }
  const auto used = std::count_if(block_nnz.begin(), block_nnz.end(),
                                  [](std::uint16_t count) { return count != 0; });
  return static_cast<double>(used) / static_cast<double>(block_nnz.size());
}

double PatternStats::block_share(int rows_of_block, int cols_of_block) const {
  const std::int64_t grid = blocks_along(rows, rows_of_block) * blocks_along(cols, cols_of_block);
  if (grid == 0) return 0;
  for (const UsedBlocks& used : used_blocks) {
    if (used.rows == rows_of_block && used.cols == cols_of_block)
      return static_cast<double>(used.count) / static_cast<double>(grid);
  }
  const double positions = static_cast<double>(rows_of_block) * cols_of_block;
  if (block_nnz.empty()) return 1.0 - std::pow(1.0 - density(), positions);
  if (rows_of_block % block_rows == 0 && cols_of_block % block_cols == 0) {
    const std::vector<std::int32_t> counts = block_counts(*this, rows_of_block, cols_of_block);
    const auto empty = std::count(counts.begin(), counts.end(), 0);
    return static_cast<double>(std::ssize(counts) - empty) / static_cast<double>(grid);
  }
  // Few distinct counts: each power is computed once.
  const double area = static_cast<double>(block_rows) * block_cols;
  std::vector<double> share(static_cast<std::size_t>(area) + 1, -1.0);
  double sum = 0;
  for (const std::uint16_t count : block_nnz) {
    double& s = share[count];
    if (s < 0) s = 1.0 - std::pow(1.0 - count / area, positions);
    sum += s;
  }
  return sum / static_cast<double>(block_nnz.size());
}

std::uint64_t PatternStats::fingerprint() const {
  Hash hash;
  for (std::int64_t word : {rows, cols, nnz, std::int64_t{block_rows}, std::int64_t{block_cols}})
    hash.add(static_cast<std::uint64_t>(word));

  constexpr std::int64_t kBins = 16;
  std::array<std::uint64_t, kBins> histogram{};
  const std::int64_t grid_cols = (cols + block_cols - 1) / block_cols;
  for (std::size_t i = 0; i < block_nnz.size(); ++i) {
    const std::int64_t r = static_cast<std::int64_t>(i) / grid_cols * block_rows;
    const std::int64_t c = static_cast<std::int64_t>(i) % grid_cols * block_cols;
    const std::int64_t area =
        std::min<std::int64_t>(block_rows, rows - r) * std::min<std::int64_t>(block_cols, cols - c);
    ++histogram[static_cast<std::size_t>(std::min(kBins - 1, block_nnz[i] * kBins / area))];
  }
  for (std::uint64_t count : histogram) hash.add(count);

  std::vector<std::int32_t> lengths = row_nnz;
  std::sort(lengths.begin(), lengths.end());
  for (std::size_t i = 0; i <= 8 && !lengths.empty(); ++i)
    hash.add(static_cast<std::uint64_t>(lengths[(lengths.size() - 1) * i / 8]));
  return hash.value();
}

PatternStats pattern_stats(const RowSource& source, ThreadPool& pool) {
  PatternStats stats;
  stats.rows = source.rows();
  stats.cols = source.cols();
  const std::int64_t cols = stats.cols;
  const std::int64_t grid_cols = (cols + stats.block_cols - 1) / stats.block_cols;
  const std::int64_t grid_rows = (stats.rows + stats.block_rows - 1) / stats.block_rows;
  stats.row_nnz.resize(static_cast<std::size_t>(stats.rows));
  stats.block_nnz.resize(static_cast<std::size_t>(grid_rows * grid_cols));

  // A panel is one row of blocks, so that no two threads count in the same block; a word of a mask
  // covers two blocks.

  std::atomic<std::int64_t> used[std::size(kSmallBlocks)] = {};
  const DType dtype = source.dtype();
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * size_of(dtype);
  for_each_panel(
      source, dtype, stats.block_rows, pool,
      [&](std::int64_t begin, std::int64_t end, const void* panel) {
        std::vector<std::uint64_t> masks(static_cast<std::size_t>((cols + 63) / 64));
        std::vector<BlockCounter> counters;
        for (int size : kSmallBlocks) counters.emplace_back(size, masks.size());
        std::uint16_t* counts = stats.block_nnz.data() + begin / stats.block_rows * grid_cols;
        const auto* row = static_cast<const std::byte*>(panel);
        for (std::int64_t r = begin; r < end; ++r, row += row_bytes) {
          stats.row_nnz[static_cast<std::size_t>(r)] =
              static_cast<std::int32_t>(nonzero_mask(row, dtype, cols, masks.data()));
          for (std::int64_t block = 0; block < grid_cols; ++block) {
            const std::uint64_t word = masks[static_cast<std::size_t>(block / 2)];
            const auto half = static_cast<std::uint32_t>(block % 2 == 0 ? word : word >> 32);
            counts[block] = static_cast<std::uint16_t>(counts[block] + std::popcount(half));
          }
          for (BlockCounter& counter : counters) counter.add_row(masks);
        }
        for (std::size_t i = 0; i < counters.size(); ++i) {
          counters[i].close();
          used[i] += counters[i].used();
        }
      });
  for (std::size_t i = 0; i < std::size(kSmallBlocks); ++i)
    stats.used_blocks.push_back({kSmallBlocks[i], kSmallBlocks[i], used[i].load()});
  for (std::int32_t count : stats.row_nnz) stats.nnz += count;
  return stats;
}

}  // namespace rarefy
