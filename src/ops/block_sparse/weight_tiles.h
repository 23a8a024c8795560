// Blocks of bf16 as AMX takes them: groups of outputs in strips of 16, each with a list of tiles of
// 32 inputs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/block_sparse/cpu/amx_inner.h"
#include "ops/block_sparse/pattern.h"
#include "ops/spmm/scratch.h"
#include "rarefy/threads.h"

namespace rarefy {

/// Groups of outputs of whole strips: a row (or column) of blocks, or four neighbours of 8 outputs.
class StripGroups {
 public:
  explicit StripGroups(const BlockGroups& blocks);

  [[nodiscard]] const BlockGroups& blocks() const { return blocks_; }
  /// Groups of blocks in a group: 1 or 4.
  [[nodiscard]] int members() const { return members_; }
  [[nodiscard]] std::int64_t groups() const { return std::ssize(offsets_) - 1; }
  [[nodiscard]] const std::int32_t* offsets() const { return offsets_.data(); }
  [[nodiscard]] std::int64_t outputs() const { return blocks_.out * members_; }
  [[nodiscard]] std::int64_t strips() const { return outputs() / block_cpu::kStripOutputs; }
  /// Strips from this one on that go together: 2, or the last one alone.
  [[nodiscard]] int strips_at(std::int64_t strip) const { return strips() - strip >= 2 ? 2 : 1; }
  /// Parts of blocks side by side that make the 32 inputs of a tile.
  [[nodiscard]] int tile_parts() const {
    return blocks_.in % 32 == 0 ? 1 : blocks_.in % 16 == 0 ? 2 : 4;
  }

 private:
  BlockGroups blocks_;
  int members_;
  std::vector<std::int32_t> offsets_;
};

/// The tiles of one group of outputs: which inputs they have, and which parts of blocks.
class GroupTiles {
 public:
  GroupTiles(const StripGroups& groups, const void* values)
      : groups_(groups), values_(static_cast<const std::uint16_t*>(values)) {}

  void build(std::int64_t group);
  /// Of each tile, in ascending order: which 32 inputs.
  [[nodiscard]] const std::vector<std::int32_t>& inputs() const { return inputs_; }

  /// Tiles [first, first + tiles), of one or two strips, to `to`: [tile][strip].
  void pack(std::int64_t first, std::int64_t tiles, std::int64_t strip, std::byte* to) const;

 private:
  const StripGroups& groups_;
  const std::uint16_t* values_;
  std::vector<std::int32_t> inputs_;
  std::vector<const std::uint16_t*> parts_;  ///< As block_cpu::WeightTiles has them.
};

/// All weights in tiles, for the length of a call: [group][pair of strips][tile][strip].
class PackedTiles {
 public:
  PackedTiles(const StripGroups& groups, const void* values, ThreadPool& pool);
  [[nodiscard]] std::span<const std::int32_t> inputs(std::int64_t group) {
    return {inputs_.as<std::int32_t>() + offset(group),
            static_cast<std::size_t>(offset(group + 1) - offset(group))};
  }
  std::byte* weights(std::int64_t group, std::int64_t strip) {
    const std::int64_t tiles = offset(group + 1) - offset(group);
    return weights_.as<std::byte>() +
           (offset(group) * groups_.strips() + strip * tiles) * block_cpu::kTileBytes;
  }

 private:
  static std::vector<std::int64_t> count_tiles(const StripGroups& groups, ThreadPool& pool);
  [[nodiscard]] std::int64_t offset(std::int64_t group) const {
    return offsets_[static_cast<std::size_t>(group)];
  }
  [[nodiscard]] std::size_t tiles() const { return static_cast<std::size_t>(offsets_.back()); }

  const StripGroups& groups_;
  std::vector<std::int64_t> offsets_;
  Scratch inputs_, weights_;
};

}  // namespace rarefy
