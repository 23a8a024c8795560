// The order of a strip's nonzeros: which one each row has in each step (gather.cu).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace rarefy::gpu {

/// A nonzero, or a zero that stands for none.
struct GatherEntry {
  std::uint16_t value = 0;
  std::uint16_t column = 0;  ///< Where its column lies in shared memory.
};

constexpr int kGatherHalf = 8;                ///< Rows that gather together: a matrix of ldmatrix.
constexpr int kGatherRows = 2 * kGatherHalf;  ///< Of a strip.

/// A nonzero of each row of half a strip.
using GatherStep = std::array<GatherEntry, kGatherHalf>;

struct GatherOrder {
  std::vector<GatherStep> halves[2];  ///< As many steps in both.
  std::int64_t conflicts = 0;         ///< Nonzeros that share a bank with another of their matrix.
};

/// The nonzeros of each row of a strip, by column.
using GatherRows = std::array<std::vector<GatherEntry>, kGatherRows>;

/// Any order will do. Steps are filled up to a multiple of `chunk_steps`.
GatherOrder order_freely(const GatherRows& rows, int chunk_steps);

/// How far steps of delta columns go from the column before.
struct GatherReach {
  int back = 0, forth = 0;
};
/// Of steps of 7 or 11 bits.
constexpr GatherReach gather_reach(int bits) {
  return bits == 7 ? GatherReach{48, 79} : bits == 11 ? GatherReach{1023, 1024} : GatherReach{};
}

/// For delta columns: the even steps of a row have its first half, the odd ones its second, and
/// each is within reach of that two steps before it, but for the first two steps of a chunk.
GatherOrder order_within_reach(const GatherRows& rows, int chunk_steps, GatherReach reach);

}  // namespace rarefy::gpu
