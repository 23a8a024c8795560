// Configurations of the scatter kernel (scatter.cu): legal by construction, with what each costs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

struct ScatterConfig {
  int rows = 8;               ///< Of a tile: a multiple of 8, at most kMostRows.
  int slabs = 1;              ///< Of 16 tokens, at once: 1, 2 or 4.
  int per_warp = 8;           ///< Rounds of 32 nonzeros that a producer warp stores a stage.
  int activation_stages = 2;  ///< Of a group of producers, copied ahead.
  int split = 1;              ///< Blocks of a cluster, which share a tile's stages.
  int tiles = 1;              ///< Clusters, along rows.

  static constexpr int kMostRows = 224;  ///< Half as many registers hold a lane's sums.
  static constexpr int kStageColumns = 64;
  static constexpr int kGroupRows = 8;
  static constexpr int kConsumers = 4, kProducers = 8;  ///< Warps.
  static constexpr int kGroups = 2;  ///< Of producers; each takes every other stage.
  static constexpr int kBuffers = 4, kWordSlots = 6;  ///< Of tiles, of words.

  [[nodiscard]] int blocks() const { return tiles * split; }
  [[nodiscard]] int threads() const { return (kProducers + kConsumers) * 32; }
  [[nodiscard]] int most_rounds() const { return per_warp * kProducers / kGroups; }
  [[nodiscard]] std::int64_t shared_bytes(int rounds, int stages) const;
  [[nodiscard]] std::string name() const;
  [[nodiscard]] cuda::Source source(const Problem& problem) const;
};

/// Every configuration that makes sense for the problem at this density.
std::vector<ScatterConfig> scatter_configs(const Problem& problem, double density,
                                           const cuda::DeviceFacts& device);

/// Microseconds of one run: bytes, shared memory, tensor cores, and what the ends cost.
double estimate_us(const ScatterConfig& config, const Problem& problem, double density,
                   const cuda::DeviceFacts& device);

}  // namespace rarefy::gpu
