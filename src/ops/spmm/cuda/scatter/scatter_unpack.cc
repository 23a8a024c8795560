// The kernel's walk through a packed weight, on the host: what tests hold the packer against.
#include "base/check.h"
#include "ops/spmm/cuda/scatter/scatter_pack.h"

namespace rarefy::gpu {
namespace {

/// The column of a stage that wgmma takes what lies at these bytes of row `r` for.
std::int64_t column_at(std::uint32_t bytes, std::uint32_t r) {
  return ((bytes / 16) ^ (r % 8)) * 8 + bytes % 16 / 2;
}

}  // namespace

std::vector<std::uint16_t> unpack_scatter(const ScatterArrays& arrays, const ScatterConfig& config,
                                          std::int64_t rows, std::int64_t cols) {
  std::vector<std::uint16_t> dense(static_cast<std::size_t>(rows * cols));
  const auto tile_bytes = static_cast<std::uint32_t>(config.rows * 128);
  std::vector<bool> used(tile_bytes / 2);
  for (std::size_t b = 0; b < arrays.blocks.size(); ++b) {
    const ScatterBlock& block = arrays.blocks[b];
    const std::int32_t* groups =
        &arrays.groups[b / static_cast<std::size_t>(config.split) *
                       static_cast<std::size_t>(config.rows / ScatterConfig::kGroupRows)];
    const std::uint32_t* word = &arrays.stream[block.first];
    for (std::uint32_t s = 0; s < block.stages; ++s) {
      const std::uint32_t stage = arrays.stages[block.first_stage + s];
      used.assign(used.size(), false);
      for (const std::uint32_t* end = word + (stage >> 16) * 32; word != end; ++word) {
        const std::uint32_t place = *word >> 16;
        if (place >= tile_bytes + 128 || place % 2 != 0)
          fail(ErrorKind::kInternal, "scatter: a word at {} of a tile of {}", place, tile_bytes);
        if (place >= tile_bytes) continue;  // Padding.
        if (used[place / 2])
          fail(ErrorKind::kInternal, "scatter: two words of a stage at {}", place);
        used[place / 2] = true;
        const std::uint32_t r = place / 128;
        const std::int64_t row = groups[r / 8] + static_cast<std::int64_t>(r % 8);
        const std::int64_t col =
            static_cast<std::int64_t>(stage & 0xFFFF) * 64 + column_at(place % 128, r);
        if (groups[r / 8] < 0 || row >= rows || col >= cols)
          fail(ErrorKind::kInternal, "scatter: a nonzero at {},{} of a {}x{} weight", row, col,
               rows, cols);
        dense[static_cast<std::size_t>(row * cols + col)] = static_cast<std::uint16_t>(*word);
      }
    }
  }
  return dense;
}

}  // namespace rarefy::gpu
