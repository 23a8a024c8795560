#include "formats/panels.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "formats/nonzero_mask.h"
#include "rarefy/cpu.h"

namespace rarefy {
namespace {

Buffer& grow(Buffer& buffer, std::size_t bytes) {
  if (buffer.size() < bytes) buffer = Buffer(bytes);
  return buffer;
}

/// Values that are zero have no bit but the sign.
template <class Bits>
std::int64_t mask_portable(const Bits* values, std::int64_t count, std::uint64_t* masks) {
  constexpr Bits kMagnitude = static_cast<Bits>(~Bits{0}) >> 1;
  std::int64_t total = 0;
  for (std::int64_t base = 0; base < count; base += 64) {
    const std::int64_t stop = std::min<std::int64_t>(64, count - base);
    std::uint64_t mask = 0;
    for (std::int64_t i = 0; i < stop; ++i)
      mask |= std::uint64_t{(values[base + i] & kMagnitude) != 0} << i;
    masks[base / 64] = mask;
    total += std::popcount(mask);
  }
  return total;
}

}  // namespace

const void* PanelReader::read(std::int64_t begin, std::int64_t end) {
  const auto cols = static_cast<std::size_t>(source_.cols());
  const std::size_t element = size_of(source_.dtype());
  const std::size_t count = static_cast<std::size_t>(end - begin) * cols;
  const auto* values = static_cast<const std::byte*>(source_.dense_data());
  if (values != nullptr) {
    values += static_cast<std::size_t>(begin) * cols * element;
  } else {
    grow(raw_, count * element);
    source_.read_rows(begin, end, raw_.data());
    values = raw_.data();
  }
  if (source_.dtype() == dtype_) return values;
  grow(converted_, count * size_of(dtype_));
  convert_elements(values, source_.dtype(), converted_.data(), dtype_, count);
  return converted_.data();
}

void for_each_panel(const RowSource& source, DType dtype, std::int64_t panel_rows, ThreadPool& pool,
                    const std::function<void(std::int64_t, std::int64_t, const void*)>& body) {
  const std::int64_t rows = source.rows();
  const std::int64_t panels = (rows + panel_rows - 1) / panel_rows;
  std::atomic<std::int64_t> next{0};
  pool.run([&](int) {
    PanelReader reader(source, dtype);
    for (std::int64_t panel = next++; panel < panels; panel = next++) {
      const std::int64_t begin = panel * panel_rows;
      const std::int64_t end = std::min(rows, begin + panel_rows);
      body(begin, end, reader.read(begin, end));
    }
  });
}

std::int64_t default_panel_rows(const RowSource& source, DType dtype) {
  constexpr std::int64_t kPanelBytes = 256 << 10;
  const std::int64_t row_bytes = source.cols() * static_cast<std::int64_t>(size_of(dtype));
  return std::clamp<std::int64_t>(kPanelBytes / std::max<std::int64_t>(row_bytes, 1), 1, 256);
}

std::int64_t nonzero_mask(const void* values, DType dtype, std::int64_t count,
                          std::uint64_t* masks) {
  const Isa isa = active_isa();
  if (size_of(dtype) == 4) {
    const auto* bits = static_cast<const std::uint32_t*>(values);
    if (isa >= Isa::kAvx512) return nonzero_mask32_avx512(bits, count, masks);
    if (isa >= Isa::kAvx2) return nonzero_mask32_avx2(bits, count, masks);
    return mask_portable(bits, count, masks);
  }
  const auto* bits = static_cast<const std::uint16_t*>(values);
  if (isa >= Isa::kAvx512) return nonzero_mask16_avx512(bits, count, masks);
  if (isa >= Isa::kAvx2) return nonzero_mask16_avx2(bits, count, masks);
  return mask_portable(bits, count, masks);
}

std::int64_t count_nonzeros(const void* values, DType dtype, std::int64_t count) {
  constexpr std::int64_t kChunk = 4096;
  const std::size_t element = size_of(dtype);
  const auto* bytes = static_cast<const std::byte*>(values);
  std::uint64_t masks[kChunk / 64];
  std::int64_t total = 0;
  for (std::int64_t base = 0; base < count; base += kChunk) {
    total += nonzero_mask(bytes + static_cast<std::size_t>(base) * element, dtype,
                          std::min(kChunk, count - base), masks);
  }
  return total;
}

std::int64_t count_nonzeros(const RowSource& source, DType dtype, ThreadPool& pool) {
  std::atomic<std::int64_t> total{0};
  for_each_panel(source, dtype, default_panel_rows(source, dtype), pool,
                 [&](std::int64_t begin, std::int64_t end, const void* values) {
                   total += count_nonzeros(values, dtype, (end - begin) * source.cols());
                 });
  return total;
}

void for_each_masked_row(const RowSource& source, DType dtype, ThreadPool& pool,
                         const std::function<void(const MaskedRow&)>& body) {
  const std::int64_t cols = source.cols();
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * size_of(dtype);
  for_each_panel(source, dtype, default_panel_rows(source, dtype), pool,
                 [&](std::int64_t begin, std::int64_t end, const void* panel) {
                   std::vector<std::uint64_t> masks(static_cast<std::size_t>(cols / 64 + 2));
                   const auto* values = static_cast<const std::byte*>(panel);
                   for (std::int64_t r = begin; r < end; ++r, values += row_bytes) {
                     const std::int64_t nnz = nonzero_mask(values, dtype, cols, masks.data());
                     body({r, values, masks.data(), nnz});
                   }
                 });
}

std::int64_t to_offsets(std::int64_t* at, std::int64_t count) {
  at[0] = 0;
  for (std::int64_t i = 0; i < count; ++i) at[i + 1] += at[i];
  return at[count];
}

Buffer buffer_with_tail(std::size_t bytes) {
  Buffer buffer(bytes + kTailBytes);
  std::memset(buffer.data() + bytes, 0, kTailBytes);
  return buffer;
}

}  // namespace rarefy
