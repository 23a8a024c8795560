#include "formats/csb.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "formats/check_arrays.h"
#include "formats/packers.h"

namespace rarefy {
namespace {

constexpr std::int64_t kBlockRows = CsbMatrix::kBlockRows;
constexpr std::int64_t kBlockCols = CsbMatrix::kBlockCols;
constexpr std::int64_t kWords = kBlockCols / 64;
using Visit = CsbMatrix::Visit;

/// What a packer knows of one row in one block.
struct Part {
  std::uint8_t entries = 0;
  std::uint16_t first = 0;  ///< Entry within the block.
};

/// Sorts the rows of a block by their entries (counting sort, stable) and places the entries.
class BlockOrder {
 public:
  /// parts: one a row, `stride` apart.
  BlockOrder(Part* parts, std::int64_t rows, std::int64_t stride)
      : parts_(parts), rows_(rows), stride_(stride) {
    for (std::int64_t r = 0; r < rows; ++r) ++counts_[part(r).entries];
    for (std::size_t n = 1; n < counts_.size(); ++n) {
      visits_ += counts_[n];
      entries_ += counts_[n] * static_cast<std::int64_t>(n);
    }
  }
  [[nodiscard]] std::int64_t visits() const { return visits_; }
  [[nodiscard]] std::int64_t entries() const { return entries_; }

  void place(Visit* visits) {
    std::array<std::int64_t, kBlockCols + 1> visit{};
    std::array<std::int64_t, kBlockCols + 1> entry{};
    for (std::size_t n = 1; n < kBlockCols; ++n) {
      visit[n + 1] = visit[n] + counts_[n];
      entry[n + 1] = entry[n] + counts_[n] * static_cast<std::int64_t>(n);
    }
    for (std::int64_t r = 0; r < rows_; ++r) {
      Part& p = part(r);
      if (p.entries == 0) continue;
      visits[visit[p.entries]++] = {static_cast<std::uint8_t>(r),
                                    static_cast<std::uint8_t>(p.entries - 1)};
      p.first = static_cast<std::uint16_t>(entry[p.entries]);
      entry[p.entries] += p.entries;
    }
  }

 private:
  Part& part(std::int64_t row) { return parts_[row * stride_]; }

  Part* parts_;
  std::int64_t rows_, stride_;
  std::int64_t visits_ = 0, entries_ = 0;
  std::array<std::int64_t, kBlockCols + 1> counts_{};
};

template <class Bits>
void fill_row(const MaskedRow& row, const Part* parts, const std::int64_t* entry_offsets,
              std::int64_t grid_cols, std::uint8_t* columns, Bits* values) {
  const auto* from = static_cast<const Bits*>(row.values);
  for (std::int64_t block = 0; block < grid_cols; ++block) {
    if (parts[block].entries == 0) continue;
    std::int64_t at = entry_offsets[block] + parts[block].first;
    // Masks are zero past the last column.
    for (std::int64_t word = 0; word < kWords; ++word) {
      const std::int64_t w = block * kWords + word;
      for_each_bit(row.masks[w], [&](int bit) {
        columns[at] = static_cast<std::uint8_t>(word * 64 + bit);
        values[at++] = from[w * 64 + bit];
      });
    }
  }
}

}  // namespace

CsbMatrix::CsbMatrix(const PackedShape& shape, Arrays arrays)
    : PackedMatrix(shape), arrays_(std::move(arrays)) {}

void CsbMatrix::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  if (begin == end || cols() == 0) return;
  std::memset(out, 0, static_cast<std::size_t>((end - begin) * cols()) * size_of(dtype()));
  dispatch_bits(dtype(), [&](auto zero) {
    using Bits = decltype(zero);
    const auto* from = static_cast<const Bits*>(values());
    auto* to = static_cast<Bits*>(out);
    const std::int64_t first = begin / kBlockRows * grid_cols();
    const std::int64_t stop = (end + kBlockRows - 1) / kBlockRows * grid_cols();
    for (std::int64_t block = first; block < stop; ++block) {
      const std::int64_t row0 = block / grid_cols() * kBlockRows - begin;
      const std::int64_t col0 = block % grid_cols() * kBlockCols;
      std::int64_t entry = entry_offsets()[block];
      for (std::int64_t v = visit_offsets()[block]; v < visit_offsets()[block + 1]; ++v) {
        const Visit visit = visits()[v];
        const std::int64_t row = row0 + visit.row;
        if (row >= 0 && row < end - begin) {
          for (std::int64_t i = entry; i < entry + visit.count(); ++i)
            to[row * cols() + col0 + columns()[i]] = from[i];
        }
        entry += visit.count();
      }
    }
  });
}

std::size_t CsbMatrix::bytes() const {
  return arrays_.visit_offsets.size() + arrays_.entry_offsets.size() + arrays_.visits.size() +
         arrays_.columns.size() + arrays_.values.size();
}

void CsbMatrix::check_block(std::int64_t block) const {
  const std::int64_t live_rows = std::min(kBlockRows, rows() - block / grid_cols() * kBlockRows);
  const std::int64_t live_cols = std::min(kBlockCols, cols() - block % grid_cols() * kBlockCols);
  std::int64_t entry = entry_offsets()[block];
  Visit before{0, 0};
  std::array<bool, kBlockRows> seen{};
  for (std::int64_t v = visit_offsets()[block]; v < visit_offsets()[block + 1]; ++v) {
    const Visit visit = visits()[v];
    const bool first = v == visit_offsets()[block];
    if (visit.row >= live_rows)
      fail(ErrorKind::kCorrupt, "csb visits[{}].row: expected below {}, found {}", v, live_rows,
           visit.row);
    if (std::exchange(seen[visit.row], true))
      fail(ErrorKind::kCorrupt,
           "csb visits[{}].row: expected each row once a block, found {} again", v, visit.row);
    if (!first && std::pair(visit.last, visit.row) <= std::pair(before.last, before.row))
      fail(ErrorKind::kCorrupt,
           "csb visits[{}]: expected more entries than {}, or as many in a row after {}; found {} "
           "in row {}",
           v, before.count(), before.row, visit.count(), visit.row);
    if (entry + visit.count() > entry_offsets()[block + 1])
      fail(ErrorKind::kCorrupt, "csb visits[{}]: expected at most {} entries, found {}", v,
           entry_offsets()[block + 1] - entry, visit.count());
    int last = -1;
    for (std::int64_t i = entry; i < entry + visit.count(); ++i) {
      if (columns()[i] <= last || columns()[i] >= live_cols)
        fail(ErrorKind::kCorrupt, "csb columns[{}]: expected {} to {}, found {}", i, last + 1,
             live_cols - 1, columns()[i]);
      last = columns()[i];
    }
    entry += visit.count();
    before = visit;
  }
  if (entry != entry_offsets()[block + 1])
    fail(ErrorKind::kCorrupt, "csb entry_offsets[{}]: expected {}, found {}", block + 1, entry,
         entry_offsets()[block + 1]);
}

void CsbMatrix::validate() const {
  const std::int64_t blocks = grid_rows() * grid_cols();
  const std::int64_t visits = check_offsets(*this, "visit_offsets", arrays_.visit_offsets, blocks);
  const std::int64_t entries = check_offsets(*this, "entry_offsets", arrays_.entry_offsets, blocks);
  const auto count = static_cast<std::size_t>(entries);
  check_size(*this, "visits", arrays_.visits, static_cast<std::size_t>(visits) * sizeof(Visit));
  check_size(*this, "columns", arrays_.columns, count + kTailBytes);
  check_size(*this, "values", arrays_.values, count * size_of(dtype()) + kTailBytes);
  for (std::int64_t block = 0; block < blocks; ++block) check_block(block);
  check_nnz(*this, values(), entries);
}

Support can_pack_csb(const FormatSpec&, std::int64_t, std::int64_t, DType) {
  return Support::yes();
}

MatrixPtr pack_csb(const RowSource& source, const FormatSpec& spec, DType dtype, ThreadPool& pool) {
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const std::int64_t grid_rows = (rows + kBlockRows - 1) / kBlockRows;
  const std::int64_t grid_cols = (cols + kBlockCols - 1) / kBlockCols;
  const std::int64_t words = (cols + 63) / 64;
  std::vector<Part> parts(static_cast<std::size_t>(rows * grid_cols));
  for_each_masked_row(source, dtype, pool, [&](const MaskedRow& row) {
    for (std::int64_t w = 0; w < words; ++w)
      parts[static_cast<std::size_t>(row.row * grid_cols + w / kWords)].entries +=
          static_cast<std::uint8_t>(std::popcount(row.masks[w]));
  });

  CsbMatrix::Arrays arrays;
  const std::int64_t blocks = grid_rows * grid_cols;
  const auto offset_bytes = static_cast<std::size_t>(blocks + 1) * sizeof(std::int64_t);
  arrays.visit_offsets = Buffer(offset_bytes);
  arrays.entry_offsets = Buffer(offset_bytes);
  auto* visit_offsets = arrays.visit_offsets.as<std::int64_t>();
  auto* entry_offsets = arrays.entry_offsets.as<std::int64_t>();
  const auto order_of = [&](std::int64_t block) {
    const std::int64_t row0 = block / grid_cols * kBlockRows;
    return BlockOrder(parts.data() + row0 * grid_cols + block % grid_cols,
                      std::min(kBlockRows, rows - row0), grid_cols);
  };
  pool.parallel_for(blocks, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const BlockOrder order = order_of(block);
      visit_offsets[block + 1] = order.visits();
      entry_offsets[block + 1] = order.entries();
    }
  });
  const std::int64_t visits = to_offsets(visit_offsets, blocks);
  const std::int64_t entries = to_offsets(entry_offsets, blocks);
  arrays.visits = Buffer(static_cast<std::size_t>(visits) * sizeof(Visit));
  arrays.columns = buffer_with_tail(static_cast<std::size_t>(entries));
  arrays.values = buffer_with_tail(static_cast<std::size_t>(entries) * size_of(dtype));
  pool.parallel_for(blocks, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block)
      order_of(block).place(arrays.visits.as<Visit>() + visit_offsets[block]);
  });

  for_each_masked_row(source, dtype, pool, [&](const MaskedRow& row) {
    dispatch_bits(dtype, [&](auto zero) {
      using Bits = decltype(zero);
      fill_row(row, parts.data() + row.row * grid_cols,
               entry_offsets + row.row / kBlockRows * grid_cols, grid_cols,
               arrays.columns.as<std::uint8_t>(), arrays.values.as<Bits>());
    });
  });
  return std::make_shared<CsbMatrix>(PackedShape{spec, rows, cols, dtype, entries},
                                     std::move(arrays));
}

}  // namespace rarefy
