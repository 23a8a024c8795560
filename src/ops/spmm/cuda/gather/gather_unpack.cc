// The kernel's walk through a packed weight, on the host: what tests hold the packer against.
#include "base/check.h"
#include "ops/spmm/cuda/gather/gather_pack.h"

namespace rarefy::gpu {
namespace {

constexpr int kLanes = 32, kPairs = GatherConfig::kChunkSteps / 2;

/// What a chunk of a strip adds to the rows of a tile, from the registers of A and the addresses
/// that the lanes hand to ldmatrix.
template <class Put>
void walk_chunk(const std::uint32_t* words, const Put& put) {
  for (int pair = 0; pair < kPairs; ++pair) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int g = lane / 4, t = lane % 4, e = t ^ lane / 8;
      // Register 0 of A: row g, columns 2t, 2t + 1; register 3: row g + 8, columns 2t + 8, 2t + 9;
      // matrix e of ldmatrix holds the eight columns.
      put(g + 8 * (e % 2), words[(e * 8 + 2 * t + g % 2) * 4 + pair] >> 16,
          static_cast<std::uint16_t>(words[lane * 4 + pair]));
    }
  }
}

}  // namespace

std::vector<std::uint16_t> unpack_gather(const GatherArrays& arrays, const GatherConfig& config,
                                         std::int64_t rows, std::int64_t cols) {
  std::vector<std::uint16_t> dense(static_cast<std::size_t>(rows * cols));
  const auto strips = static_cast<std::size_t>(config.strips);
  for (std::size_t block = 0; block < static_cast<std::size_t>(config.blocks()); ++block) {
    const std::int64_t begin = static_cast<std::int64_t>(block) % config.split * config.columns;
    const std::size_t tile = block / static_cast<std::size_t>(config.split);
    for (int w = 0; w < config.warps; ++w) {
      const GatherWarp& warp =
          arrays
              .warps[block * static_cast<std::size_t>(config.warps) + static_cast<std::size_t>(w)];
      std::size_t strip = warp.strip;
      std::uint32_t left = warp.left, slot = warp.slot;
      for (std::uint32_t i = 0; i < warp.chunks; ++i) {
        const GatherStrip& of = arrays.strips[block * strips + strip];
        if (slot < of.first_slot || slot >= std::uint32_t{of.first_slot} + of.slots)
          fail(ErrorKind::kInternal, "gather: warp {} of strip {} has slot {} of {}+{}", w, strip,
               slot, of.first_slot, of.slots);
        const auto put = [&](int r, std::uint32_t at, std::uint16_t value) {
          if (value == 0) return;
          const int place =
              arrays.places[(block * strips + strip) * 16 + static_cast<std::size_t>(r)];
          const std::int32_t group =
              arrays.groups[tile * strips + static_cast<std::size_t>(place) / 16];
          const std::int64_t row = group + place % 16;
          const std::int64_t col = begin + static_cast<std::int64_t>(at ^ (at >> 3 & 7));
          if (group < 0 || row >= rows || col >= cols)
            fail(ErrorKind::kInternal, "gather: a nonzero at {},{} of a {}x{} weight", row, col,
                 rows, cols);
          dense[static_cast<std::size_t>(row * cols + col)] = value;
        };
        walk_chunk(&arrays.stream[(warp.first + i) * (GatherConfig::kChunkBytes / 4)], put);
        if (--left == 0) {
          ++slot;
          do {
            ++strip;
          } while (strip < strips && arrays.strips[block * strips + strip].chunks == 0);
          left = strip < strips ? arrays.strips[block * strips + strip].chunks : ~0U;
        }
      }
    }
  }
  return dense;
}

}  // namespace rarefy::gpu
