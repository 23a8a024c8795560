#include "ops/spmm/cuda/blocks/cut_blocks.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace rarefy::gpu {
namespace {

/// f16 and bf16 alike: everything but the sign is zero.
bool is_zero(std::uint16_t bits) {
  return (bits & 0x7FFF) == 0;
}

/// The taken blocks of one row of blocks.
struct BlockRow {
  std::vector<std::int32_t> columns;
  std::vector<std::uint16_t> values;
};

BlockRow cut_row(const std::uint16_t* rows, std::int64_t cols, int block_rows, int block_cols,
                 int fewest) {
  BlockRow cut;
  std::vector<int> nonzeros(static_cast<std::size_t>(cols / block_cols));
  for (int r = 0; r < block_rows; ++r) {
    const std::uint16_t* row = rows + r * cols;
    for (int& count : nonzeros) {
      for (int c = 0; c < block_cols; ++c) count += is_zero(row[c]) ? 0 : 1;
      row += block_cols;
    }
  }
  for (std::size_t block = 0; block < nonzeros.size(); ++block) {
    if (nonzeros[block] < fewest) continue;
    cut.columns.push_back(static_cast<std::int32_t>(block));
    const std::uint16_t* from = rows + static_cast<std::int64_t>(block) * block_cols;
    for (int r = 0; r < block_rows; ++r, from += cols)
      cut.values.insert(cut.values.end(), from, from + block_cols);
  }
  return cut;
}

}  // namespace

BlockPattern CutBlocks::pattern() const {
  return {.rows = rows,
          .cols = cols,
          .block_rows = block_rows,
          .block_cols = block_cols,
          .row_offsets = row_offsets,
          .col_indices = col_indices};
}

CutBlocks cut_blocks(const RowSource& source, int block_rows, int block_cols, int fewest,
                     ThreadPool& pool) {
  require(size_of(source.dtype()) == 2, "blocks: expected a weight of f16 or bf16, got {}",
          to_string(source.dtype()));
  require(source.rows() % block_rows == 0 && source.cols() % block_cols == 0,
          "blocks: expected a shape of multiples of {}x{}, got {}x{}", block_rows, block_cols,
          source.rows(), source.cols());
  CutBlocks all{.rows = source.rows(),
                .cols = source.cols(),
                .block_rows = block_rows,
                .block_cols = block_cols};
  std::vector<BlockRow> cut(static_cast<std::size_t>(source.rows() / block_rows));
  pool.parallel_dynamic(std::ssize(cut), 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint16_t> rows(static_cast<std::size_t>(block_rows * source.cols()));
    for (std::int64_t i = begin; i < end; ++i) {
      source.read_rows(i * block_rows, (i + 1) * block_rows, rows.data());
      cut[static_cast<std::size_t>(i)] =
          cut_row(rows.data(), source.cols(), block_rows, block_cols, fewest);
    }
  });
  std::size_t values = 0;
  all.row_offsets.push_back(0);
  for (const BlockRow& row : cut) {
    all.col_indices.insert(all.col_indices.end(), row.columns.begin(), row.columns.end());
    all.row_offsets.push_back(static_cast<std::int32_t>(all.col_indices.size()));
    values += row.values.size();
  }
  all.values.resize(values * sizeof(std::uint16_t));
  std::byte* to = all.values.data();
  for (const BlockRow& row : cut) {
    if (row.values.empty()) continue;
    std::memcpy(to, row.values.data(), row.values.size() * sizeof(std::uint16_t));
    to += row.values.size() * sizeof(std::uint16_t);
  }
  return all;
}

void RestOfBlocks::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  source_.read_rows(begin, end, out);
  auto* row = static_cast<std::uint16_t*>(out);
  for (std::int64_t r = begin; r < end; ++r, row += cols()) {
    const auto at = static_cast<std::size_t>(r / taken_.block_rows);
    for (std::int32_t b = taken_.row_offsets[at]; b < taken_.row_offsets[at + 1]; ++b)
      std::fill_n(
          row + std::int64_t{taken_.col_indices[static_cast<std::size_t>(b)]} * taken_.block_cols,
          taken_.block_cols, std::uint16_t{0});
  }
}

}  // namespace rarefy::gpu
