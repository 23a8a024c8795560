#include "ops/spmm/cuda/structured/two_of_four.h"

#include <fmt/format.h>

#include <atomic>
#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

#include "formats/panels.h"

namespace rarefy::gpu {
namespace {

/// The highest bit of each group of four bits of which more than two are set.
std::uint64_t crowded_groups(std::uint64_t mask) {
  const std::uint64_t pairs = mask - (mask >> 1 & 0x5555555555555555ULL);
  const std::uint64_t counts =
      (pairs & 0x3333333333333333ULL) + (pairs >> 2 & 0x3333333333333333ULL);
  return (counts + 0x5555555555555555ULL) & 0x8888888888888888ULL;  // 3 + 5 = 8
}

}  // namespace

std::optional<std::string> breaks_two_of_four(const RowSource& source, ThreadPool& pool) {
  constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();
  std::atomic<std::int64_t> first_row = kNone;
  const DType dtype = source.dtype();
  const std::int64_t cols = source.cols();
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * size_of(dtype);
  const auto words = static_cast<std::size_t>((cols + 63) / 64);
  for_each_panel(source, dtype, default_panel_rows(source, dtype), pool,
                 [&](std::int64_t begin, std::int64_t end, const void* panel) {
                   std::vector<std::uint64_t> masks(words);
                   const auto* row = static_cast<const std::byte*>(panel);
                   for (std::int64_t r = begin; r < end && r < first_row; ++r, row += row_bytes) {
                     nonzero_mask(row, dtype, cols, masks.data());
                     std::uint64_t crowded = 0;
                     for (const std::uint64_t mask : masks) crowded |= crowded_groups(mask);
                     if (crowded == 0) continue;
                     std::int64_t known = first_row;
                     while (r < known && !first_row.compare_exchange_weak(known, r)) {
                     }
                     return;
                   }
                 });
  const std::int64_t row = first_row;
  if (row == kNone) return std::nullopt;
  Buffer values(row_bytes);
  source.read_rows(row, row + 1, values.data());
  std::vector<std::uint64_t> masks(words);
  nonzero_mask(values.data(), dtype, cols, masks.data());
  std::size_t word = 0;
  while (crowded_groups(masks[word]) == 0) ++word;
  const int shift = std::countr_zero(crowded_groups(masks[word])) - 3;
  const std::int64_t col = static_cast<std::int64_t>(word) * 64 + shift;
  return fmt::format("row {} has {} nonzeros in columns {} to {}", row,
                     std::popcount(masks[word] >> shift & 0xF), col, col + 3);
}

}  // namespace rarefy::gpu
