// Patterns of blocks: checks, and the way from rows to columns.
#include "ops/block_sparse/pattern.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace rarefy {
namespace {

using Indices = std::span<const std::int32_t>;

/// One of the two orders of blocks, with the names its errors use.
struct Side {
  Indices offsets, indices;
  std::int64_t groups, across;  ///< Rows of blocks and columns of blocks, or the other way round.
  const char *offsets_name, *indices_name;
};

void check_offsets(const char* op, const Side& s) {
  require(std::ssize(s.offsets) == s.groups + 1, "{}: {}: expected {} entries, got {}", op,
          s.offsets_name, s.groups + 1, s.offsets.size());
  require(s.offsets.front() == 0 && s.offsets.back() == std::ssize(s.indices),
          "{}: {}: expected them to go from 0 to the {} blocks of {}, got {} to {}", op,
          s.offsets_name, s.indices.size(), s.indices_name, s.offsets.front(), s.offsets.back());
  for (std::int64_t g = 0; g < s.groups; ++g) {
    const auto at = static_cast<std::size_t>(g);
    require(s.offsets[at] <= s.offsets[at + 1],
            "{}: {}: expected ascending offsets, got {} and then {} at {}", op, s.offsets_name,
            s.offsets[at], s.offsets[at + 1], g);
  }
}

/// Whether all lie in [0, limit): branches would cost more than the comparisons.
bool within(Indices indices, std::int64_t limit) {
  std::uint32_t largest = 0;
  for (const std::int32_t i : indices) largest = std::max(largest, static_cast<std::uint32_t>(i));
  return indices.empty() || largest < static_cast<std::uint64_t>(limit);
}

void require_within(const char* op, const char* name, Indices indices, std::int64_t limit) {
  if (within(indices, limit)) return;
  for (std::size_t i = 0; i < indices.size(); ++i)
    require(indices[i] >= 0 && indices[i] < limit, "{}: {}: expected 0 to {}, got {} at {}", op,
            name, limit - 1, indices[i], i);
}

/// Pairs of neighbours that do not ascend are counted first (in vectors), then those that start a
/// new group taken off.
void require_ascending(const char* op, const Side& s) {
  const auto falls = [&](std::size_t i) { return s.indices[i] <= s.indices[i - 1] ? 1 : 0; };
  std::int64_t count = 0;
  for (std::size_t i = 1; i < s.indices.size(); ++i) count += falls(i);
  std::int32_t last = 0;
  for (const std::int32_t start : s.offsets.subspan(1)) {
    if (start != last && start < std::ssize(s.indices))
      count -= falls(static_cast<std::size_t>(start));
    last = start;
  }
  if (count == 0) return;
  for (std::int64_t g = 0; g < s.groups; ++g) {
    const auto at = static_cast<std::size_t>(g);
    for (std::int32_t i = s.offsets[at] + 1; i < s.offsets[at + 1]; ++i) {
      const auto here = static_cast<std::size_t>(i);
      require(s.indices[here] > s.indices[here - 1],
              "{}: {}: expected ascending indices in block {} {}, got {} and then {}", op,
              s.indices_name, s.offsets_name[0] == 'r' ? "row" : "column", g, s.indices[here - 1],
              s.indices[here]);
    }
  }
}

void check_side(const char* op, const Side& s) {
  check_offsets(op, s);
  require_within(op, s.indices_name, s.indices, s.across);
  require_ascending(op, s);
}

Side by_rows(const BlockPattern& p) {
  return {p.row_offsets,         p.col_indices, p.rows / p.block_rows,
          p.cols / p.block_cols, "row_offsets", "col_indices"};
}
Side by_columns(const BlockPattern& p) {
  return {p.col_offsets,         p.row_indices, p.cols / p.block_cols,
          p.rows / p.block_rows, "col_offsets", "row_indices"};
}

void check_shape(const char* op, const BlockPattern& p) {
  constexpr int kMostBlock = 1 << 15;  // Sizes of a block in bytes stay far within 64 bits.
  require(p.block_rows >= 1 && p.block_cols >= 1 && p.block_rows <= kMostBlock &&
              p.block_cols <= kMostBlock,
          "{}: block shape: expected 1 to {} rows and columns, got {}x{}", op, kMostBlock,
          p.block_rows, p.block_cols);
  require(p.rows >= 0 && p.rows % p.block_rows == 0 && p.cols >= 0 && p.cols % p.block_cols == 0,
          "{}: weight: expected multiples of the {}x{} blocks, got {}x{}", op, p.block_rows,
          p.block_cols, p.rows, p.cols);
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  require(p.rows <= kMost && p.cols <= kMost,
          "{}: weight: expected at most {} rows and columns, "
          "got {}x{}",
          op, kMost, p.rows, p.cols);
}

}  // namespace

void check_rows(const char* op, const BlockPattern& p) {
  check_shape(op, p);
  check_side(op, by_rows(p));
}

void check_columns(const char* op, const BlockPattern& p) {
  check_shape(op, p);
  require(p.row_indices.size() == p.order.size(),
          "{}: order: expected {} entries as in row_indices, got {}", op, p.row_indices.size(),
          p.order.size());
  check_side(op, by_columns(p));
  require_within(op, "order", p.order, std::ssize(p.order));
}

void validate(const BlockPattern& p) {
  constexpr const char* kOp = "block pattern";
  check_rows(kOp, p);
  check_columns(kOp, p);
  require(p.order.size() == p.col_indices.size(),
          "{}: order: expected {} entries as in col_indices, got {}", kOp, p.col_indices.size(),
          p.order.size());
  // Rows ascend within a column and columns within a row, so that equal counts and every block
  // found mean the same set.
  for (std::int64_t c = 0; c < p.cols / p.block_cols; ++c) {
    for (std::int32_t i = p.col_offsets[static_cast<std::size_t>(c)];
         i < p.col_offsets[static_cast<std::size_t>(c) + 1]; ++i) {
      const auto row = static_cast<std::size_t>(p.row_indices[static_cast<std::size_t>(i)]);
      const std::int32_t block = p.order[static_cast<std::size_t>(i)];
      require(block >= p.row_offsets[row] && block < p.row_offsets[row + 1] &&
                  p.col_indices[static_cast<std::size_t>(block)] == c,
              "{}: order: expected the block of row {} and column {} at {}, got block {}", kOp, row,
              c, i, block);
    }
  }
}

BlockColumns block_columns(const BlockPattern& p) {
  check_rows("block_columns", p);
  const std::int64_t columns = p.cols / p.block_cols;
  const std::size_t blocks = p.col_indices.size();
  BlockColumns to{std::vector<std::int32_t>(static_cast<std::size_t>(columns) + 1),
                  std::vector<std::int32_t>(blocks), std::vector<std::int32_t>(blocks)};
  for (const std::int32_t c : p.col_indices) ++to.offsets[static_cast<std::size_t>(c) + 1];
  for (std::size_t c = 0; c < static_cast<std::size_t>(columns); ++c)
    to.offsets[c + 1] += to.offsets[c];
  std::vector<std::int32_t> next(to.offsets.begin(), to.offsets.end() - 1);
  for (std::int64_t r = 0; r < p.rows / p.block_rows; ++r) {
    for (std::int32_t b = p.row_offsets[static_cast<std::size_t>(r)];
         b < p.row_offsets[static_cast<std::size_t>(r) + 1]; ++b) {
      const auto column = static_cast<std::size_t>(p.col_indices[static_cast<std::size_t>(b)]);
      const auto at = static_cast<std::size_t>(next[column]++);
      to.row_indices[at] = static_cast<std::int32_t>(r);
      to.order[at] = b;
    }
  }
  return to;
}

}  // namespace rarefy
