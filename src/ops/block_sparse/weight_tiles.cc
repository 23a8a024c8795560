#include "ops/block_sparse/weight_tiles.h"

#include <algorithm>
#include <limits>

#include "ops/block_sparse/cut.h"

namespace rarefy {

using block_cpu::kStripOutputs;
using block_cpu::kTileBytes;
using block_cpu::kTileInputs;

StripGroups::StripGroups(const BlockGroups& blocks)
    : blocks_(blocks), members_(blocks.out == kStripOutputs / 2 ? 4 : 1) {
  for (std::int64_t g = 0; g < blocks.groups; g += members_) offsets_.push_back(blocks.offsets[g]);
  offsets_.push_back(blocks.offsets[blocks.groups]);
}

void GroupTiles::build(std::int64_t group) {
  const BlockGroups& g = groups_.blocks();
  const int tile_parts = groups_.tile_parts();
  const std::int64_t part_inputs = kTileInputs / tile_parts;
  const std::int64_t block_parts = g.in / part_inputs;
  const int members = groups_.members();
  constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();
  /// Where a member is: parts of its blocks, one after the other.
  struct Cursor {
    std::int64_t block, end, part, input;
  };
  Cursor cursors[4];
  const auto locate = [&](Cursor& c) {
    c.input = c.block < c.end ? g.inputs[c.block] * block_parts + c.part : kNone;
  };
  for (int m = 0; m < members; ++m) {
    const std::int64_t member = std::min(group * members + m, g.groups);
    cursors[m] = {g.offsets[member], g.offsets[std::min(member + 1, g.groups)], 0, 0};
    locate(cursors[m]);
  }
  inputs_.clear();
  parts_.clear();
  for (;;) {
    std::int64_t next = kNone;
    for (int m = 0; m < members; ++m) next = std::min(next, cursors[m].input);
    if (next == kNone) break;
    const std::int64_t tile = next / tile_parts;
    inputs_.push_back(static_cast<std::int32_t>(tile));
    const std::size_t at = parts_.size();
    parts_.resize(at + static_cast<std::size_t>(members * tile_parts), nullptr);
    for (int m = 0; m < members; ++m) {
      Cursor& c = cursors[m];
      while (c.input / tile_parts == tile) {
        parts_[at + static_cast<std::size_t>(m * tile_parts + c.input % tile_parts)] =
            values_ + g.place(c.block) * g.block_elements() + c.part * part_inputs * g.in_stride;
        if (++c.part == block_parts) {
          c.part = 0;
          ++c.block;
        }
        locate(c);
      }
    }
  }
}

void GroupTiles::pack(std::int64_t first, std::int64_t tiles, std::int64_t strip,
                      std::byte* to) const {
  const BlockGroups& g = groups_.blocks();
  const int parts = groups_.members() * groups_.tile_parts();
  const block_cpu::WeightTiles job{
      .parts = parts_.data() + first * parts,
      .offset = groups_.members() == 1 ? strip * kStripOutputs * g.out_stride : 0,
      .tiles = tiles,
      .tile_parts = groups_.tile_parts(),
      .members = groups_.members(),
      .row = std::max(g.out_stride, g.in_stride),
      .strips = groups_.strips_at(strip),
      .to = to};
  g.in_stride == 1 ? block_cpu::pack_outputs_by_rows_amx(job)
                   : block_cpu::pack_outputs_by_columns_amx(job);
}

PackedTiles::PackedTiles(const StripGroups& groups, const void* values, ThreadPool& pool)
    : groups_(groups),
      offsets_(count_tiles(groups, pool)),
      inputs_(tiles() * sizeof(std::int32_t)),
      weights_(tiles() * static_cast<std::size_t>(groups.strips() * kTileBytes)) {
  hand_out(pool, groups.offsets(), groups.groups(), 1, 1, [&] {
    return [&, tiles = GroupTiles(groups, values)](std::int64_t, std::int64_t first,
                                                   std::int64_t last) mutable {
      for (std::int64_t group = first; group < last; ++group) {
        tiles.build(group);
        std::copy(tiles.inputs().begin(), tiles.inputs().end(),
                  inputs_.as<std::int32_t>() + offset(group));
        for (std::int64_t strip = 0; strip < groups.strips(); strip += 2)
          tiles.pack(0, std::ssize(tiles.inputs()), strip, weights(group, strip));
      }
    };
  });
}

std::vector<std::int64_t> PackedTiles::count_tiles(const StripGroups& groups, ThreadPool& pool) {
  std::vector<std::int64_t> at(static_cast<std::size_t>(groups.groups()) + 1);
  const BlockGroups& g = groups.blocks();
  if (groups.tile_parts() == 1 && groups.members() == 1) {
    for (std::int64_t group = 0; group < groups.groups(); ++group)
      at[static_cast<std::size_t>(group) + 1] =
          (g.offsets[group + 1] - g.offsets[group]) * (g.in / kTileInputs);
  } else {
    hand_out(pool, groups.offsets(), groups.groups(), 1, 1, [&] {
      return [&, tiles = GroupTiles(groups, nullptr)](std::int64_t, std::int64_t first,
                                                      std::int64_t last) mutable {
        for (std::int64_t group = first; group < last; ++group) {
          tiles.build(group);
          at[static_cast<std::size_t>(group) + 1] = std::ssize(tiles.inputs());
        }
      };
    });
  }
  for (std::size_t i = 1; i < at.size(); ++i) at[i] += at[i - 1];
  return at;
}

}  // namespace rarefy
