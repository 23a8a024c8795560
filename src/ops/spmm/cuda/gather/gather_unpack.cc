// The kernel's walk through a packed weight, on the host: what tests hold the packer against.
#include <array>

#include "base/check.h"
#include "ops/spmm/cuda/gather/gather_order.h"
#include "ops/spmm/cuda/gather/gather_pack.h"

namespace rarefy::gpu {
namespace {

constexpr std::uint32_t kLanes = 32;

/// The words of a chunk, decoded as chunk.cuh says.
class ChunkReader {
 public:
  /// @param delta bits of a step, 0 without
  ChunkReader(const std::uint32_t* words, int delta) : words_(words), delta_(delta) {}

  [[nodiscard]] std::uint32_t pairs() const { return delta_ > 0 ? 8 : 4; }

  [[nodiscard]] std::uint16_t value(std::uint32_t lane, std::uint32_t pair) const {
    const std::uint32_t word = words_[lane * 4 + (delta_ > 0 ? pair / 2 : pair)];
    return static_cast<std::uint16_t>(delta_ > 0 && pair % 2 != 0 ? word >> 16 : word);
  }

  [[nodiscard]] std::uint32_t column(std::uint32_t lane, std::uint32_t pair) const {
    if (delta_ == 0) return words_[lane * 4 + pair] >> 16;
    const std::uint32_t low = words_[kLanes * 4 + lane * 2],
                        high = words_[kLanes * 4 + lane * 2 + 1];
    if (delta_ == 7) {
      const std::uint32_t first = high >> 21 << 4 | low >> 28;
      return walk(first, {low, low >> 7, low >> 14, low >> 21, high, high >> 7, high >> 14}, pair);
    }
    const std::uint32_t more = words_[kLanes * 6 + lane];
    const std::uint32_t first = (high >> 22) % 32 << 10 | low >> 22;
    return walk(first,
                {low, low >> 11, high, high >> 11, more, more >> 11, more >> 22 << 5 | high >> 27},
                pair);
  }

 private:
  [[nodiscard]] std::uint32_t walk(std::uint32_t at, const std::array<std::uint32_t, 7>& steps,
                                   std::uint32_t pair) const {
    for (std::uint32_t p = 0; p < pair; ++p)
      at += steps[p] % (1U << delta_) - static_cast<std::uint32_t>(gather_reach(delta_).back);
    return at;
  }

  const std::uint32_t* words_;
  int delta_;
};

/// What a chunk of a strip adds to the rows of a tile, from the registers of A and the addresses
/// that the lanes hand to ldmatrix.
template <class Put>
void walk_chunk(const ChunkReader& chunk, const Put& put) {
  for (std::uint32_t pair = 0; pair < chunk.pairs(); ++pair) {
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
      const std::uint32_t g = lane / 4, t = lane % 4, e = t ^ lane / 8;
      // Register 0 of A: row g, columns 2t, 2t + 1; register 3: row g + 8, columns 2t + 8, 2t + 9;
      // matrix e of ldmatrix holds the eight columns.
      put(g + 8 * (e % 2), chunk.column(e * 8 + 2 * t + g % 2, pair), chunk.value(lane, pair));
    }
  }
}

}  // namespace

std::vector<std::uint16_t> unpack_gather(const GatherArrays& arrays, const GatherConfig& config,
                                         std::int64_t rows, std::int64_t cols) {
  std::vector<std::uint16_t> dense(static_cast<std::size_t>(rows * cols));
  const auto strips = static_cast<std::size_t>(config.strips);
  const auto chunk_words = static_cast<std::size_t>(config.chunk_bytes()) / 4;
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
        const auto put = [&](std::uint32_t r, std::uint32_t at, std::uint16_t value) {
          if (value == 0) return;
          const int place = arrays.places[(block * strips + strip) * 16 + r];
          const std::int32_t group =
              arrays.groups[tile * strips + static_cast<std::size_t>(place) / 16];
          const std::int64_t row = group + place % 16;
          const std::int64_t col = begin + static_cast<std::int64_t>(at ^ (at >> 3 & 7));
          if (group < 0 || row >= rows || col >= cols)
            fail(ErrorKind::kInternal, "gather: a nonzero at {},{} of a {}x{} weight", row, col,
                 rows, cols);
          dense[static_cast<std::size_t>(row * cols + col)] = value;
        };
        walk_chunk({&arrays.stream[(warp.first + i) * chunk_words], config.delta}, put);
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
