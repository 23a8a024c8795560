// Configurations of the kernels for the lane format, lane.cu and wide.cu: legal by construction,
// with what each costs.
#pragma once

#include <cstdint>
#include <string>

#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

struct LaneConfig {
  int strips = 1;            ///< Of 16 rows, a warp.
  int token_tiles = 1;       ///< Of 8 tokens.
  int row_warps = 1;         ///< Warps of a block along rows …
  int k_warps = 1;           ///< … and along K.
  int blocks = 2;            ///< Of 16 columns, a stage.
  int split = 1;             ///< Blocks of a cluster, along K.
  int row_tiles = 1;         ///< Clusters; each has row_warps groups of strips.
  bool wide = false;         ///< For wide.cu: four warps along rows multiply together.
  int swap_blocks = 1;       ///< Of 16 columns, between swaps of half-columns.
  int activation_slots = 2;  ///< Stages of activations in shared memory.

  static constexpr int kStripRows = 16, kBlockColumns = 16;
  static constexpr int kRowBytes = 128;
  static constexpr int kHeaderBytes = 16;
  static constexpr int kSlots = 2;
  /// Of the wide kernel: one in use, one given back late, at least one on its way.
  static constexpr int kLeastActivationSlots = 3, kMostActivationSlots = 6;

  [[nodiscard]] int warps() const { return row_warps * k_warps; }
  [[nodiscard]] int groups() const { return row_tiles * row_warps; }
  /// Which of the row_warps and of the k_warps a warp of a block is.
  [[nodiscard]] int row_warp(int warp) const { return wide ? warp % row_warps : warp / k_warps; }
  [[nodiscard]] int k_warp(int warp) const { return wide ? warp / row_warps : warp % k_warps; }
  /// 16×16 pieces of a warp between swaps.
  [[nodiscard]] int fragments() const { return strips * swap_blocks; }
  [[nodiscard]] int swaps() const { return blocks / swap_blocks; }
  [[nodiscard]] int tokens() const { return 8 * token_tiles; }
  [[nodiscard]] int wrap() const { return fragments() < 4 ? fragments() : 4; }
  [[nodiscard]] int mirror_rows() const { return 4 * wrap(); }
  [[nodiscard]] int mask_bytes() const { return fragments() * 32; }  ///< Between swaps.
  [[nodiscard]] int slot_bytes() const { return kHeaderBytes + swaps() * mask_bytes(); }
  /// Of a warp, with a ring of this many rows.
  [[nodiscard]] std::int64_t region_bytes(int ring_rows) const;
  /// Of a block.
  [[nodiscard]] std::int64_t shared_bytes(int ring_rows) const;

  /// The ring that uniform random nonzeros of this density need (the packer finds the true one).
  [[nodiscard]] int expected_ring_rows(double density) const;

  [[nodiscard]] std::string name() const;
  [[nodiscard]] const char* kernel() const { return wide ? "spmm_wide" : "spmm_lane"; }
  [[nodiscard]] cuda::Source source(const Problem& problem) const;

  /// lane_expand.cu, for weights whose rings have this many rows, and what a block of it needs.
  static constexpr int kExpandWarps = 4;
  [[nodiscard]] cuda::Source expand_source(int ring_rows) const;
  [[nodiscard]] std::size_t expand_shared_bytes(int ring_rows) const;
};

/// Every configuration that makes sense for the problem at this density.
std::vector<LaneConfig> lane_configs(const Problem& problem, double density,
                                     const cuda::DeviceFacts& device);

/// The same for the wide kernel, from 9 tokens on.
std::vector<LaneConfig> wide_configs(const Problem& problem, double density,
                                     const cuda::DeviceFacts& device);

/// Microseconds of one run: counted bytes and issue slots, and what a launch costs.
double estimate_us(const LaneConfig& config, const Problem& problem, double density,
                   const cuda::DeviceFacts& device);

}  // namespace rarefy::gpu
