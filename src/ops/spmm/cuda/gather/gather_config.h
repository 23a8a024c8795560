// Configurations of the gather kernel (gather.cu): legal by construction, with what each costs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

struct GatherConfig {
  int token_tiles = 1;  ///< Of 8 tokens, at once.
  int warps = 16;
  int depth = 4;      ///< Chunks in flight, a warp.
  int split = 1;      ///< Blocks of a cluster, along K.
  int tiles = 1;      ///< Clusters, along rows.
  int strips = 1;     ///< Of 16 rows, a tile.
  int columns = 8;    ///< Of a block: a multiple of 8.
  bool tall = false;  ///< Tiles as high as shared memory allows: blocks divide tokens, not rows.

  static constexpr int kStripRows = 16;
  static constexpr int kChunkSteps = 8;  ///< In a step, each row of a strip has one nonzero.
  static constexpr int kChunkBytes = kChunkSteps * kStripRows * 4;

  [[nodiscard]] int blocks() const { return tiles * split; }
  [[nodiscard]] std::int64_t shared_bytes() const;
  [[nodiscard]] std::string name() const;
  [[nodiscard]] cuda::Source source(const Problem& problem) const;
};

/// Every configuration that makes sense for the problem.
std::vector<GatherConfig> gather_configs(const Problem& problem, const cuda::DeviceFacts& device);

/// Microseconds of one run: bytes, shared memory, issue slots, and what the ends cost.
double estimate_us(const GatherConfig& config, const Problem& problem, const PatternStats& pattern,
                   const cuda::DeviceFacts& device);

}  // namespace rarefy::gpu
