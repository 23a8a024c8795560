// The kernel's walk through a packed weight, on the host: what tests hold the packer against.
#include <array>
#include <span>

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

/// A block on its way through the kernel, with the nonzeros that are added to a sum in its stead.
class BlockReader {
 public:
  BlockReader(const GatherArrays& arrays, const GatherConfig& config, std::size_t block)
      : arrays_(arrays),
        config_(config),
        block_(block),
        strips_(static_cast<std::size_t>(arrays.strips_a_block)),
        rows_(static_cast<std::size_t>(config.groups) * 16),
        places_(
            std::span(arrays.places).subspan(block * (strips_ * 32 - rows_), strips_ * 32 - rows_)),
        sums_(strips_ * 16, std::vector<std::uint16_t>(static_cast<std::size_t>(config.columns))) {}

  /// What warp `w` multiplies, to the places of its strips.
  void read(std::size_t w) {
    const auto chunk_words = static_cast<std::size_t>(config_.chunk_bytes()) / 4;
    const GatherWarp& warp = arrays_.warps[block_ * static_cast<std::size_t>(config_.warps) + w];
    const GatherStrip* const strips = &arrays_.strips[block_ * strips_];
    std::size_t strip = warp.strip;
    std::uint32_t left = warp.left, slot = warp.slot;
    for (std::uint32_t i = 0; i < warp.chunks; ++i) {
      const GatherStrip& of = strips[strip];
      if (slot < of.first_slot || slot >= std::uint32_t{of.first_slot} + of.slots)
        fail(ErrorKind::kInternal, "gather: warp {} of strip {} has slot {} of {}+{}", w, strip,
             slot, of.first_slot, of.slots);
      const auto put = [&](std::uint32_t r, std::uint32_t at, std::uint16_t value) {
        if (value != 0) add(places_[strip * 16 + r], at ^ (at >> 3 & 7), value);
      };
      walk_chunk({&arrays_.stream[(warp.first + i) * chunk_words], config_.delta}, put);
      if (--left == 0) {
        ++slot;
        do {
          ++strip;
        } while (strip < strips_ && strips[strip].chunks == 0);
        left = strip < strips_ ? strips[strip].chunks : ~0U;
      }
    }
  }

  /// Adds the runs of cut rows up.
  void fold() {
    const auto rows = places_.subspan(strips_ * 16);
    for (std::size_t first = 0; first < rows.size(); ++first) {
      const std::uint16_t row = rows[first];
      if (row == kGatherNoRow || (first > 0 && rows[first - 1] == row)) continue;
      for (std::size_t j = first; j < rows.size() && rows[j] == row; ++j)
        for (std::size_t column = 0; column < sums_[rows_ + j].size(); ++column)
          if (const std::uint16_t value = sums_[rows_ + j][column]; value != 0)
            add(row, column, value);
    }
  }

  /// A row of the tile.
  [[nodiscard]] std::span<const std::uint16_t> row(std::size_t place) const { return sums_[place]; }

 private:
  void add(std::size_t place, std::size_t column, std::uint16_t value) {
    if (column >= sums_[place].size() || sums_[place][column] != 0)
      fail(ErrorKind::kInternal, "gather: a nonzero at place {}, column {} of {}", place, column,
           sums_[place].size());
    sums_[place][column] = value;
  }

  const GatherArrays& arrays_;
  const GatherConfig& config_;
  std::size_t block_, strips_, rows_;
  std::span<const std::uint16_t> places_;
  std::vector<std::vector<std::uint16_t>> sums_;  ///< [place][column]
};

}  // namespace

std::vector<std::uint16_t> unpack_gather(const GatherArrays& arrays, const GatherConfig& config,
                                         std::int64_t rows, std::int64_t cols) {
  std::vector<std::uint16_t> dense(static_cast<std::size_t>(rows * cols));
  const auto groups = static_cast<std::size_t>(config.groups);
  for (std::size_t block = 0; block < static_cast<std::size_t>(config.blocks()); ++block) {
    BlockReader reader(arrays, config, block);
    for (std::size_t w = 0; w < static_cast<std::size_t>(config.warps); ++w) reader.read(w);
    reader.fold();
    const std::size_t tile = block / static_cast<std::size_t>(config.split);
    const std::int64_t begin = static_cast<std::int64_t>(block) % config.split * config.columns;
    for (std::size_t place = 0; place < groups * 16; ++place) {
      const std::int32_t group = arrays.groups[tile * groups + place / 16];
      const std::int64_t row = group + static_cast<std::int64_t>(place % 16);
      const std::span<const std::uint16_t> values = reader.row(place);
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (values[i] == 0) continue;
        const std::int64_t col = begin + static_cast<std::int64_t>(i);
        if (group < 0 || row >= rows || col >= cols)
          fail(ErrorKind::kInternal, "gather: a nonzero at {},{} of a {}x{} weight", row, col, rows,
               cols);
        dense[static_cast<std::size_t>(row * cols + col)] = values[i];
      }
    }
  }
  return dense;
}

}  // namespace rarefy::gpu
