#include "formats/sell.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "base/check.h"
#include "formats/packers.h"
#include "formats/panels.h"

namespace rarefy {
namespace {

constexpr std::size_t kLanes = SellMatrix::kLanes;

std::uint32_t largest_gap(std::size_t gap_bytes) {
  return gap_bytes == 1 ? 0xffU : 0xffffU;
}

void put_gap(std::byte* gaps, std::size_t gap_bytes, std::size_t lane, std::uint32_t gap) {
  const auto narrow = static_cast<std::uint16_t>(gap);
  std::memcpy(gaps + lane * gap_bytes, &narrow, gap_bytes);  // Little endian.
}

std::uint32_t get_gap(const std::byte* gaps, std::size_t gap_bytes, std::size_t lane) {
  std::uint16_t gap = 0;
  std::memcpy(&gap, gaps + lane * gap_bytes, gap_bytes);
  return gap;
}

bool is_zero(const std::byte* value, std::size_t bytes) {
  for (std::size_t i = 0; i + 1 < bytes; ++i) {
    if (value[i] != std::byte{0}) return false;
  }
  return (value[bytes - 1] & std::byte{0x7f}) == std::byte{0};
}

/// Columns of one row's nonzeros, and how many entries they take.
struct RowList {
  std::vector<std::uint32_t> columns;
  std::size_t entries = 0;
};

/// The slices of one scope.
struct PackedScope {
  std::vector<std::byte> data;
  std::vector<std::uint64_t> slice_bytes;
  std::vector<std::uint32_t> order;
};

void list_row(const std::byte* values, DType dtype, std::int64_t cols, std::uint32_t reach,
              std::vector<std::uint64_t>& masks, RowList& row) {
  nonzero_mask(values, dtype, cols, masks.data());
  row.columns.clear();
  row.entries = 0;
  std::uint32_t cursor = 0;
  for (std::size_t word = 0; word < masks.size(); ++word) {
    for_each_bit(masks[word], [&](int bit) {
      const auto column = static_cast<std::uint32_t>(word * 64) + static_cast<std::uint32_t>(bit);
      const std::uint32_t gap = column - cursor;
      row.entries += 1 + (gap > 0 ? (gap - 1) / reach : 0);
      row.columns.push_back(column);
      cursor = column;
    });
  }
}

/// Writes one row into its lane of a slice that is all zero.
void write_lane(const RowList& row, const std::byte* values, std::size_t value_bytes,
                std::size_t gap_bytes, std::size_t lane, std::byte* step) {
  const std::size_t step_bytes = kLanes * (gap_bytes + value_bytes);
  const std::uint32_t reach = largest_gap(gap_bytes);
  std::uint32_t cursor = 0;
  for (const std::uint32_t column : row.columns) {
    for (; column - cursor > reach; cursor += reach, step += step_bytes)
      put_gap(step, gap_bytes, lane, reach);
    put_gap(step, gap_bytes, lane, column - cursor);
    std::memcpy(step + kLanes * gap_bytes + lane * value_bytes, values + column * value_bytes,
                value_bytes);
    cursor = column;
    step += step_bytes;
  }
}

void pack_scope(const std::byte* panel, std::int64_t first_row, std::size_t panel_rows, DType dtype,
                std::int64_t cols, std::size_t gap_bytes, PackedScope& out) {
  const std::size_t value_bytes = size_of(dtype);
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * value_bytes;
  std::vector<std::uint64_t> masks(static_cast<std::size_t>((cols + 63) / 64));
  std::vector<RowList> rows(panel_rows);
  for (std::size_t r = 0; r < panel_rows; ++r)
    list_row(panel + r * row_bytes, dtype, cols, largest_gap(gap_bytes), masks, rows[r]);
  std::vector<std::size_t> order(panel_rows);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return rows[a].entries > rows[b].entries; });
  for (std::size_t slice = 0; slice < panel_rows; slice += kLanes) {
    const std::size_t bytes = rows[order[slice]].entries * kLanes * (gap_bytes + value_bytes);
    const std::size_t at = out.data.size();
    out.data.resize(at + bytes);
    out.slice_bytes.push_back(bytes);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      if (slice + lane >= panel_rows) {
        out.order.push_back(SellMatrix::kNoRow);
        continue;
      }
      const std::size_t r = order[slice + lane];
      out.order.push_back(static_cast<std::uint32_t>(first_row) + static_cast<std::uint32_t>(r));
      write_lane(rows[r], panel + r * row_bytes, value_bytes, gap_bytes, lane,
                 out.data.data() + at);
    }
  }
}

}  // namespace

SellMatrix::SellMatrix(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, DType dtype,
                       std::int64_t nnz, Buffer stream, Buffer offsets, Buffer order)
    : spec_(spec),
      rows_(rows),
      cols_(cols),
      dtype_(dtype),
      nnz_(nnz),
      stream_(std::move(stream)),
      offsets_(std::move(offsets)),
      order_(std::move(order)) {}

void SellMatrix::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  const std::size_t element = size_of(dtype_);
  auto* to = static_cast<std::byte*>(out);
  const std::size_t bytes = static_cast<std::size_t>((end - begin) * cols_) * element;
  if (bytes != 0) std::memset(to, 0, bytes);
  if (begin == end) return;
  // The rows of a scope lie in the scope's own slices.
  const auto first = static_cast<std::size_t>(begin / kScope * (kScope / kLanes));
  const auto last =
      std::min(static_cast<std::size_t>(slices()),
               static_cast<std::size_t>((end + kScope - 1) / kScope * (kScope / kLanes)));
  for (std::size_t slice = first; slice < last; ++slice) {
    for (std::size_t lane = 0; lane < static_cast<std::size_t>(kLanes); ++lane) {
      const std::uint32_t row = order()[slice * kLanes + lane];
      if (row == kNoRow || row < begin || row >= end) continue;
      std::byte* row_out = to + static_cast<std::size_t>((row - begin) * cols_) * element;
      std::uint64_t column = 0;
      for (std::uint64_t at = offsets()[slice]; at < offsets()[slice + 1]; at += step_bytes()) {
        const std::byte* step = stream_.data() + at;
        const std::byte* value = step + kLanes * gap_bytes() + lane * element;
        column += get_gap(step, gap_bytes(), lane);
        if (!is_zero(value, element)) std::memcpy(row_out + column * element, value, element);
      }
    }
  }
}

void SellMatrix::validate() const {
  const auto corrupt = [](const std::string& what) { fail(ErrorKind::kCorrupt, "sell {}", what); };
  const auto count = static_cast<std::size_t>(slices());
  if (offsets().size() != count + 1 || order().size() != count * kLanes) {
    corrupt(fmt::format("offsets and order: expected {} and {}, found {} and {}", count + 1,
                        count * kLanes, offsets().size(), order().size()));
  }
  if (offsets()[0] != 0) corrupt(fmt::format("offsets[0]: expected 0, found {}", offsets()[0]));
  if (offsets()[count] + kTailBytes != stream_.size()) {
    corrupt(fmt::format("stream: expected {} bytes by its offsets, found {}",
                        offsets()[count] + kTailBytes, stream_.size()));
  }
  std::vector<bool> seen(static_cast<std::size_t>(rows_));
  std::int64_t found = 0;
  for (std::size_t slice = 0; slice < count; ++slice) {
    const std::uint64_t begin = offsets()[slice];
    const std::uint64_t end = offsets()[slice + 1];
    if (begin > end || (end - begin) % step_bytes() != 0 || end > offsets()[count])
      corrupt(fmt::format("offsets[{}]: {} to {} is not a number of steps", slice, begin, end));
    for (std::size_t lane = 0; lane < static_cast<std::size_t>(kLanes); ++lane) {
      const std::uint32_t row = order()[slice * kLanes + lane];
      if (row != kNoRow) {
        const bool here = row < rows_ && row / kScope == slice * kLanes / kScope;
        if (!here || seen[row])
          corrupt(fmt::format("order: row {} in lane {} of slice {} is {}", row, lane, slice,
                              here ? "a repetition" : "not a row of its scope"));
        seen[row] = true;
      }
      std::uint64_t column = 0;
      std::int64_t last = -1;
      for (std::uint64_t at = begin; at < end; at += step_bytes()) {
        const std::byte* step = stream_.data() + at;
        column += get_gap(step, gap_bytes(), lane);
        const std::byte* value = step + kLanes * gap_bytes() + lane * size_of(dtype_);
        if (column >= static_cast<std::uint64_t>(std::max<std::int64_t>(cols_, 1)))
          corrupt(fmt::format("slice {} lane {}: column {} lies outside {}", slice, lane, column,
                              cols_));
        if (is_zero(value, size_of(dtype_))) continue;
        if (row == kNoRow || static_cast<std::int64_t>(column) <= last)
          corrupt(fmt::format("slice {} lane {}: value at column {} after {} of row {}", slice,
                              lane, column, last, row));
        last = static_cast<std::int64_t>(column);
        ++found;
      }
    }
  }
  if (!std::all_of(seen.begin(), seen.end(), [](bool s) { return s; }))
    corrupt("order: a row has no lane");
  if (found != nnz_) corrupt(fmt::format("values: expected {} nonzeros, found {}", nnz_, found));
}

Support can_pack_sell(const FormatSpec&, std::int64_t rows, std::int64_t cols, DType) {
  // Rows and columns are counted in 32 bits; gathers index with the sign.
  constexpr std::int64_t kMost = 0x7fffffff;
  if (rows > kMost || cols > kMost)
    return Support::no(fmt::format("sell needs M and K below 2^31, got {}x{}", rows, cols));
  return Support::yes();
}

MatrixPtr pack_sell(const RowSource& source, const FormatSpec& spec, DType dtype,
                    ThreadPool& pool) {
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const std::size_t gap_bytes = spec.index_bits == 8 ? 1 : 2;
  const std::int64_t scopes = (rows + SellMatrix::kScope - 1) / SellMatrix::kScope;
  std::vector<PackedScope> packed(static_cast<std::size_t>(scopes));
  std::atomic<std::int64_t> nnz{0};
  for_each_panel(source, dtype, SellMatrix::kScope, pool,
                 [&](std::int64_t begin, std::int64_t end, const void* values) {
                   nnz += count_nonzeros(values, dtype, (end - begin) * cols);
                   pack_scope(static_cast<const std::byte*>(values), begin,
                              static_cast<std::size_t>(end - begin), dtype, cols, gap_bytes,
                              packed[static_cast<std::size_t>(begin / SellMatrix::kScope)]);
                 });

  const auto slices =
      static_cast<std::size_t>((rows + SellMatrix::kLanes - 1) / SellMatrix::kLanes);
  Buffer offsets_buffer((slices + 1) * sizeof(std::uint64_t));
  Buffer order_buffer(slices * kLanes * sizeof(std::uint32_t));
  const std::span<std::uint64_t> offsets = offsets_buffer.span<std::uint64_t>();
  offsets[0] = 0;
  std::vector<std::uint64_t> scope_at;
  std::size_t slice = 0;
  for (const PackedScope& scope : packed) {
    scope_at.push_back(offsets[slice]);
    std::copy(scope.order.begin(), scope.order.end(),
              order_buffer.as<std::uint32_t>() + slice * kLanes);
    for (const std::uint64_t bytes : scope.slice_bytes) {
      offsets[slice + 1] = offsets[slice] + bytes;
      ++slice;
    }
  }
  Buffer stream(offsets[slices] + SellMatrix::kTailBytes);
  std::memset(stream.data() + offsets[slices], 0, SellMatrix::kTailBytes);
  pool.parallel_for(scopes, [&](std::int64_t first, std::int64_t last) {
    for (auto s = static_cast<std::size_t>(first); s < static_cast<std::size_t>(last); ++s) {
      std::copy(packed[s].data.begin(), packed[s].data.end(), stream.data() + scope_at[s]);
      packed[s] = {};
    }
  });
  return std::make_shared<SellMatrix>(spec, rows, cols, dtype, nnz.load(), std::move(stream),
                                      std::move(offsets_buffer), std::move(order_buffer));
}

}  // namespace rarefy
