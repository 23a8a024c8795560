// How packers read a source: panels of rows, in the dtype to be stored, by all threads at once; and
// the bit masks of nonzeros that they count and fill from.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "rarefy/matrix.h"

namespace rarefy {

/// Reads panels of one source as `dtype`. Rows that already lie dense in that dtype are not copied.
/// One reader a thread.
class PanelReader {
 public:
  PanelReader(const RowSource& source, DType dtype) : source_(source), dtype_(dtype) {}
  /// Rows [begin, end), K elements apart; valid until the next call.
  const void* read(std::int64_t begin, std::int64_t end);

 private:
  const RowSource& source_;
  DType dtype_;
  Buffer raw_, converted_;
};

/// Calls body(begin, end, values) for consecutive panels of `panel_rows` rows (the last may be
/// shorter), each exactly once, from all threads, in no particular order.
void for_each_panel(
    const RowSource& source, DType dtype, std::int64_t panel_rows, ThreadPool& pool,
    const std::function<void(std::int64_t begin, std::int64_t end, const void* values)>& body);

/// Rows that make a panel of about 256 KiB: small enough for L2 twice, large enough to amortise a
/// call.
std::int64_t default_panel_rows(const RowSource& source, DType dtype);

/// Sets bit i of masks[i / 64] where values[i] is not zero (-0.0 is a zero, NaN is not) and returns
/// how many there are. Writes ceil(count / 64) words; bits past `count` are zero.
std::int64_t nonzero_mask(const void* values, DType dtype, std::int64_t count,
                          std::uint64_t* masks);

/// Nonzeros among `count` values.
std::int64_t count_nonzeros(const void* values, DType dtype, std::int64_t count);

/// Nonzeros of a whole source, by all threads.
std::int64_t count_nonzeros(const RowSource& source, DType dtype, ThreadPool& pool);

/// A row as a packer sees it.
struct MaskedRow {
  std::int64_t row;
  const void* values;  ///< K values of the dtype asked for.
  const std::uint64_t*
      masks;  ///< Bit k % 64 of word k / 64: value k is not zero. A zero word follows.
  std::int64_t nnz;
};

/// Calls body for every row, each exactly once, from all threads, in no particular order: the count
/// pass and the fill pass of a packer.
void for_each_masked_row(const RowSource& source, DType dtype, ThreadPool& pool,
                         const std::function<void(const MaskedRow&)>& body);

/// Turns counts in at[1…count] into offsets: at[0] = 0, at[i] = Σ of the first i counts. Returns
/// the total.
std::int64_t to_offsets(std::int64_t* at, std::int64_t count);

/// Bytes behind every packed array that may be read and mean nothing (they are zero), so that
/// kernels load whole vectors at the end of the last row.
inline constexpr std::size_t kTailBytes = 64;

/// A buffer of `bytes`, uninitialised, and kTailBytes of zeros behind them.
Buffer buffer_with_tail(std::size_t bytes);

/// Calls body(i) for each set bit of `mask`, upwards.
template <class Body>
void for_each_bit(std::uint64_t mask, Body&& body) {
  for (; mask != 0; mask &= mask - 1) body(std::countr_zero(mask));
}

/// The unsigned integer of an element's width, for code that only moves values:
/// `dispatch_bits(dtype, [&](auto zero) { using Bits = decltype(zero); … })`.
template <class Body>
decltype(auto) dispatch_bits(DType dtype, Body&& body) {
  if (dtype == DType::kF32) return body(std::uint32_t{});
  return body(std::uint16_t{});
}

/// f32, f16 or bf16 by its type: `dispatch_dtype(dtype, [&](auto zero) { using T = decltype(zero);
/// … })`.
template <class Body>
decltype(auto) dispatch_dtype(DType dtype, Body&& body) {
  if (dtype == DType::kF32) return body(float{});
  if (dtype == DType::kF16) return body(Float16{});
  return body(BFloat16{});
}

}  // namespace rarefy
