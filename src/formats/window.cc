#include "formats/window.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "formats/packers.h"
#include "formats/panels.h"

namespace rarefy {
namespace {

constexpr int kMaxRows = 64;

/// What depends on the dtype, as one object to pass around.
struct Layout128 {
  explicit Layout128(DType dtype)
      : per_lane(WindowMatrix::per_lane(dtype)),
        groups(WindowMatrix::groups(dtype)),
        rows(16 * groups),
        value_bytes(size_of(dtype)) {}
  int per_lane, groups, rows;
  std::size_t value_bytes;
  [[nodiscard]] std::size_t mask_bytes() const {
    return static_cast<std::size_t>(groups) * sizeof(std::uint16_t);
  }
  /// Where the column of value j of lane q of group g lies.
  [[nodiscard]] int column_at(int q, int j, int g) const { return 4 * q + groups * j + g; }
};

/// A block while it is packed.
struct PackedBlock {
  std::vector<std::byte> masks, data;
  std::uint32_t steps = 0;
};

/// Columns of one window's nonzeros, row by row.
struct WindowLists {
  std::array<std::array<std::uint8_t, 128>, kMaxRows> columns;
  std::array<int, kMaxRows> count;
};

void append_step(const Layout128& l, const WindowLists& lists, int step, bool first,
                 const std::byte* panel, std::size_t row_bytes, std::int64_t base,
                 PackedBlock& out) {
  std::array<std::uint16_t, 4> masks{};
  std::array<int, 4> lanes{};
  for (int row = 0; row < l.rows; ++row) {
    if (lists.count[static_cast<std::size_t>(row)] <= step * l.per_lane) continue;
    const auto g = static_cast<std::size_t>(row / 16);
    masks[g] = static_cast<std::uint16_t>(masks[g] | (1U << (row % 16)));
    ++lanes[g];
  }
  const bool empty = *std::max_element(lanes.begin(), lanes.end()) == 0;
  if (empty) {  // A window without nonzeros: one lane of zeros.
    masks[0] = 1;
    lanes[0] = 1;
  }
  const auto* mask_data = reinterpret_cast<const std::byte*>(masks.data());
  out.masks.insert(out.masks.end(), mask_data, mask_data + l.mask_bytes());

  const auto column_bytes =
      static_cast<std::size_t>(4 * *std::max_element(lanes.begin(), lanes.end()));
  std::size_t value_at = out.data.size() + column_bytes;
  const std::size_t column_at = out.data.size();
  std::size_t values = 0;
  for (int g = 0; g < l.groups; ++g)
    values += static_cast<std::size_t>(lanes[static_cast<std::size_t>(g)]);
  out.data.resize(value_at + values * static_cast<std::size_t>(l.per_lane) * l.value_bytes);
  if (!empty) {
    for (int g = 0; g < l.groups; ++g) {
      int q = 0;
      for_each_bit(masks[static_cast<std::size_t>(g)], [&](int r) {
        const auto row = static_cast<std::size_t>(16 * g + r);
        for (int j = 0; j < l.per_lane; ++j, value_at += l.value_bytes) {
          const int i = step * l.per_lane + j;
          const bool stored = i < lists.count[row];
          const std::uint8_t column =
              lists.columns[row][static_cast<std::size_t>(stored ? i : i - 1)];
          out.data[column_at + static_cast<std::size_t>(l.column_at(q, j, g))] =
              static_cast<std::byte>(column);
          if (stored) {
            std::memcpy(
                out.data.data() + value_at,
                panel + row * row_bytes + static_cast<std::size_t>(base + column) * l.value_bytes,
                l.value_bytes);
          }
        }
        ++q;
      });
    }
  }
  if (first) out.data[column_at] |= WindowMatrix::kNewWindow;
  ++out.steps;
}

/// Packs rows of one block; `masks` holds their nonzero bits, `words` a row.
void pack_block(const Layout128& l, const std::byte* panel, std::int64_t panel_rows,
                std::int64_t cols, const std::vector<std::uint64_t>& masks, std::size_t words,
                PackedBlock& out) {
  WindowLists lists;
  lists.count.fill(0);
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * l.value_bytes;
  for (std::int64_t base = 0; base < cols; base += WindowMatrix::kWindow) {
    int longest = 0;
    for (std::size_t row = 0; row < static_cast<std::size_t>(panel_rows); ++row) {
      int count = 0;
      const std::size_t word = row * words + static_cast<std::size_t>(base / 64);
      const auto take = [&](std::uint64_t mask, int offset) {
        for_each_bit(mask, [&](int bit) {
          lists.columns[row][static_cast<std::size_t>(count++)] =
              static_cast<std::uint8_t>(offset + bit);
        });
      };
      take(masks[word], 0);
      if (base + 64 < cols) take(masks[word + 1], 64);
      lists.count[row] = count;
      longest = std::max(longest, count);
    }
    const int steps = std::max(1, (longest + l.per_lane - 1) / l.per_lane);
    for (int step = 0; step < steps; ++step)
      append_step(l, lists, step, step == 0, panel, row_bytes, base, out);
  }
}

/// A cursor over the steps of a block.
class Steps {
 public:
  Steps(const WindowMatrix& a, std::int64_t block)
      : layout_(a.dtype()),
        masks_(a.stream() + a.offsets()[static_cast<std::size_t>(block)]),
        left_(a.steps()[static_cast<std::size_t>(block)]),
        data_(masks_ + left_ * layout_.mask_bytes()) {}

  /// Goes to the next step; false when there is none.
  bool next() {
    if (left_ == 0) return false;
    --left_;
    data_ += step_bytes_;
    std::memcpy(masks.data(), masks_, layout_.mask_bytes());
    masks_ += layout_.mask_bytes();
    int most = 0;
    int lanes = 0;
    for (int g = 0; g < layout_.groups; ++g) {
      const int n = std::popcount(masks[static_cast<std::size_t>(g)]);
      most = std::max(most, n);
      lanes += n;
    }
    value_ = static_cast<std::size_t>(4 * most);
    step_bytes_ = value_ + static_cast<std::size_t>(lanes * layout_.per_lane) * layout_.value_bytes;
    if (most > 0 && (data_[0] & WindowMatrix::kNewWindow) != std::byte{0}) ++window;
    return true;
  }
  /// Calls body(row, column, value) for each value of the step, zeros of padding included.
  template <class Body>
  void for_each_value(Body&& body) const {
    const std::byte* value = data_ + value_;
    for (int g = 0; g < layout_.groups; ++g) {
      int q = 0;
      for_each_bit(masks[static_cast<std::size_t>(g)], [&](int r) {
        for (int j = 0; j < layout_.per_lane; ++j, value += layout_.value_bytes) {
          const auto column = std::to_integer<int>(data_[layout_.column_at(q, j, g)]) & 0x7f;
          body(16 * g + r, window * WindowMatrix::kWindow + column, value);
        }
        ++q;
      });
    }
  }
  [[nodiscard]] const std::byte* end() const { return data_ + step_bytes_; }

  std::int64_t window = -1;
  std::array<std::uint16_t, 4> masks{};

 private:
  Layout128 layout_;
  const std::byte* masks_;
  std::size_t left_;
  const std::byte* data_;
  std::size_t step_bytes_ = 0, value_ = 0;
};

bool is_zero(const std::byte* value, std::size_t bytes) {
  for (std::size_t i = 0; i + 1 < bytes; ++i) {
    if (value[i] != std::byte{0}) return false;
  }
  return (value[bytes - 1] & std::byte{0x7f}) == std::byte{0};
}

}  // namespace

WindowMatrix::WindowMatrix(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t nnz,
                           Buffer stream, Buffer offsets, Buffer steps)
    : rows_(rows),
      cols_(cols),
      dtype_(dtype),
      nnz_(nnz),
      stream_(std::move(stream)),
      offsets_(std::move(offsets)),
      steps_(std::move(steps)) {}

void WindowMatrix::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  const std::size_t element = size_of(dtype_);
  const std::int64_t height = block_rows(dtype_);
  auto* to = static_cast<std::byte*>(out);
  const std::size_t bytes = static_cast<std::size_t>((end - begin) * cols_) * element;
  if (bytes != 0) std::memset(to, 0, bytes);
  for (std::int64_t b = begin / height; b * height < end; ++b) {
    for (Steps steps(*this, b); steps.next();) {
      steps.for_each_value([&](int r, std::int64_t column, const std::byte* value) {
        const std::int64_t row = b * height + r;
        if (row < begin || row >= end || is_zero(value, element)) return;
        std::memcpy(to + static_cast<std::size_t>((row - begin) * cols_ + column) * element, value,
                    element);
      });
    }
  }
}

void WindowMatrix::validate() const {
  const auto corrupt = [](const std::string& what) {
    fail(ErrorKind::kCorrupt, "window {}", what);
  };
  const auto count = static_cast<std::size_t>(blocks());
  const Layout128 layout(dtype_);
  if (offsets().size() != count + 1 || steps().size() != count) {
    corrupt(fmt::format("offsets and steps: expected {} and {}, found {} and {}", count + 1, count,
                        offsets().size(), steps().size()));
  }
  if (offsets()[0] != 0) corrupt(fmt::format("offsets[0]: expected 0, found {}", offsets()[0]));
  if (offsets()[count] + kTailBytes != stream_.size()) {
    corrupt(fmt::format("stream: expected {} bytes by its offsets, found {}",
                        offsets()[count] + kTailBytes, stream_.size()));
  }
  std::int64_t found = 0;
  for (std::size_t b = 0; b < count; ++b) {
    if (offsets()[b] > offsets()[b + 1] ||
        offsets()[b] + steps()[b] * layout.mask_bytes() > offsets()[b + 1])
      corrupt(fmt::format("offsets[{}]: block of {} steps from {} does not fit before {}", b,
                          steps()[b], offsets()[b], offsets()[b + 1]));
    const std::byte* end = stream_.data() + offsets()[b + 1];
    Steps cursor(*this, static_cast<std::int64_t>(b));
    std::array<std::int64_t, kMaxRows> last{};
    last.fill(-1);
    const std::int64_t live =
        std::min<std::int64_t>(layout.rows, rows_ - static_cast<std::int64_t>(b) * layout.rows);
    for (std::size_t step = 0; cursor.next(); ++step) {
      if (cursor.end() > end)
        corrupt(fmt::format("block {}: step {} runs past the end of the block", b, step));
      if (std::all_of(cursor.masks.begin(), cursor.masks.end(), [](auto m) { return m == 0; }))
        corrupt(fmt::format("block {}: step {} is empty", b, step));
      cursor.for_each_value([&](int r, std::int64_t column, const std::byte* value) {
        if (r >= live || column < 0 || column >= cols_) {
          corrupt(fmt::format("block {} step {}: row {} column {} lies outside {}x{}", b, step, r,
                              column, rows_, cols_));
        }
        auto& previous = last[static_cast<std::size_t>(r)];
        if (is_zero(value, layout.value_bytes)) return;
        if (column <= previous) {
          corrupt(fmt::format("block {} step {}: row {} has column {} after {}", b, step, r, column,
                              previous));
        }
        previous = column;
        ++found;
      });
    }
    if (steps()[b] > 0 && cursor.end() != end)
      corrupt(fmt::format("block {}: its masks leave {} bytes over", b, end - cursor.end()));
    if (cursor.window != windows() - 1)
      corrupt(
          fmt::format("block {}: expected {} windows, found {}", b, windows(), cursor.window + 1));
  }
  if (found != nnz_) corrupt(fmt::format("values: expected {} nonzeros, found {}", nnz_, found));
}

Support can_pack_window(const FormatSpec&, std::int64_t, std::int64_t, DType) {
  return Support::yes();
}

MatrixPtr pack_window(const RowSource& source, const FormatSpec&, DType dtype, ThreadPool& pool) {
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const Layout128 layout(dtype);
  const std::int64_t blocks = (rows + layout.rows - 1) / layout.rows;
  std::vector<PackedBlock> packed(static_cast<std::size_t>(blocks));
  std::atomic<std::int64_t> nnz{0};
  for_each_panel(
      source, dtype, layout.rows, pool,
      [&](std::int64_t begin, std::int64_t end, const void* values) {
        const auto words = static_cast<std::size_t>((cols + 63) / 64);
        std::vector<std::uint64_t> masks(words * static_cast<std::size_t>(end - begin));
        const auto* panel = static_cast<const std::byte*>(values);
        std::int64_t count = 0;
        for (std::int64_t r = 0; r < end - begin; ++r) {
          count += nonzero_mask(panel + static_cast<std::size_t>(r * cols) * layout.value_bytes,
                                dtype, cols, masks.data() + static_cast<std::size_t>(r) * words);
        }
        nnz += count;
        PackedBlock& block = packed[static_cast<std::size_t>(begin / layout.rows)];
        block.data.reserve(static_cast<std::size_t>(count) * (layout.value_bytes + 1) * 9 / 8);
        pack_block(layout, panel, end - begin, cols, masks, words, block);
      });

  Buffer offsets_buffer(static_cast<std::size_t>(blocks + 1) * sizeof(std::uint64_t));
  Buffer steps_buffer(static_cast<std::size_t>(blocks) * sizeof(std::uint32_t));
  const std::span<std::uint64_t> offsets = offsets_buffer.span<std::uint64_t>();
  const std::span<std::uint32_t> steps = steps_buffer.span<std::uint32_t>();
  offsets[0] = 0;
  for (std::size_t b = 0; b < packed.size(); ++b) {
    offsets[b + 1] = offsets[b] + packed[b].masks.size() + packed[b].data.size();
    steps[b] = packed[b].steps;
  }
  const std::uint64_t end = offsets[packed.size()];
  Buffer stream(end + WindowMatrix::kTailBytes);
  std::memset(stream.data() + end, 0, WindowMatrix::kTailBytes);
  pool.parallel_for(blocks, [&](std::int64_t first, std::int64_t last) {
    for (auto b = static_cast<std::size_t>(first); b < static_cast<std::size_t>(last); ++b) {
      std::byte* to = stream.data() + offsets[b];
      std::copy(packed[b].masks.begin(), packed[b].masks.end(), to);
      std::copy(packed[b].data.begin(), packed[b].data.end(), to + packed[b].masks.size());
      packed[b] = {};
    }
  });
  return std::make_shared<WindowMatrix>(rows, cols, dtype, nnz.load(), std::move(stream),
                                        std::move(offsets_buffer), std::move(steps_buffer));
}

}  // namespace rarefy
