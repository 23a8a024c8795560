#include "formats/strips.h"

#include <algorithm>
#include <cstring>

namespace rarefy {
namespace {

template <class Bits>
void copy_clean(const Bits* from, std::int64_t count, Bits* to) {
  constexpr Bits kMagnitude = static_cast<Bits>(~Bits{0}) >> 1;
  for (std::int64_t i = 0; i < count; ++i) to[i] = (from[i] & kMagnitude) != 0 ? from[i] : Bits{0};
}

/// Rows outermost: reading each row's run in one go keeps rows that lie a multiple of 4 KiB apart
/// from evicting one another, and the 1 KiB that is written stays in L1 whatever the order.
template <class Bits, std::int64_t kPair>
void pack(const Bits* from, std::int64_t row_stride, std::int64_t rows, std::int64_t cols,
          std::int64_t width, Bits* strip) {
  constexpr std::int64_t kRun = 64;
  Bits run[kRun];
  for (std::int64_t c0 = 0; c0 < width; c0 += kRun) {
    const std::int64_t columns = std::min(kRun, width - c0);
    const std::int64_t present = std::clamp<std::int64_t>(cols - c0, 0, columns);
    Bits* out = strip + c0 * kStripRows;
    for (std::int64_t r = 0; r < kStripRows; ++r) {
      const std::int64_t copied = r < rows ? present : 0;
      if (copied > 0) copy_clean(from + r * row_stride + c0, copied, run);
      std::fill(run + copied, run + columns, Bits{0});
      for (std::int64_t c = 0; c < columns; c += kPair) {
        for (std::int64_t p = 0; p < kPair; ++p) out[c * kStripRows + r * kPair + p] = run[c + p];
      }
    }
  }
}

template <class Bits, std::int64_t kPair>
void unpack(const Bits* strip, std::int64_t row_begin, std::int64_t row_end, std::int64_t cols,
            Bits* to, std::int64_t row_stride) {
  for (std::int64_t r = row_begin; r < row_end; ++r) {
    Bits* row = to + (r - row_begin) * row_stride;
    for (std::int64_t c = 0; c < cols; ++c) row[c] = strip[strip_index(r, c, kPair)];
  }
}

}  // namespace

void pack_strip(const void* from, DType dtype, std::int64_t row_stride, std::int64_t rows,
                std::int64_t cols, std::int64_t width, void* strip) {
  using U16 = std::uint16_t;
  using U32 = std::uint32_t;
  if (dtype == DType::kF32) {
    pack<U32, 1>(static_cast<const U32*>(from), row_stride, rows, cols, width,
                 static_cast<U32*>(strip));
  } else if (dtype == DType::kF16) {
    pack<U16, 1>(static_cast<const U16*>(from), row_stride, rows, cols, width,
                 static_cast<U16*>(strip));
  } else {
    pack<U16, 2>(static_cast<const U16*>(from), row_stride, rows, cols, width,
                 static_cast<U16*>(strip));
  }
}

void unpack_strip(const void* strip, DType dtype, std::int64_t row_begin, std::int64_t row_end,
                  std::int64_t cols, void* to, std::int64_t row_stride) {
  using U16 = std::uint16_t;
  using U32 = std::uint32_t;
  if (dtype == DType::kF32) {
    unpack<U32, 1>(static_cast<const U32*>(strip), row_begin, row_end, cols, static_cast<U32*>(to),
                   row_stride);
  } else if (dtype == DType::kF16) {
    unpack<U16, 1>(static_cast<const U16*>(strip), row_begin, row_end, cols, static_cast<U16*>(to),
                   row_stride);
  } else {
    unpack<U16, 2>(static_cast<const U16*>(strip), row_begin, row_end, cols, static_cast<U16*>(to),
                   row_stride);
  }
}

void copy_without_negative_zeros(const void* from, DType dtype, std::int64_t count, void* to) {
  if (dtype == DType::kF32) {
    copy_clean(static_cast<const std::uint32_t*>(from), count, static_cast<std::uint32_t*>(to));
  } else {
    copy_clean(static_cast<const std::uint16_t*>(from), count, static_cast<std::uint16_t*>(to));
  }
}

}  // namespace rarefy
