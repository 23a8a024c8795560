// Configurations of the lane kernel (lane.cu): legal by construction, with what each costs.
#pragma once

#include <cstdint>
#include <string>

#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

struct LaneConfig {
  int strips = 1;       ///< Of 16 rows, a warp.
  int token_tiles = 1;  ///< Of 8 tokens.
  int row_warps = 1;    ///< Warps of a block along rows …
  int k_warps = 1;      ///< … and along K.
  int blocks = 2;       ///< Of 16 columns, a stage.
  int split = 1;        ///< Blocks of a cluster, along K.
  int row_tiles = 1;    ///< Clusters; each has row_warps groups of strips.

  static constexpr int kStripRows = 16, kBlockColumns = 16;
  static constexpr int kRowBytes = 128;
  static constexpr int kHeaderBytes = 16;
  static constexpr int kSlots = 2;

  [[nodiscard]] int warps() const { return row_warps * k_warps; }
  [[nodiscard]] int groups() const { return row_tiles * row_warps; }
  [[nodiscard]] int wrap() const { return strips < 4 ? strips : 4; }
  [[nodiscard]] int mirror_rows() const { return 4 * wrap(); }
  [[nodiscard]] int mask_bytes() const { return strips * 32; }
  [[nodiscard]] int slot_bytes() const { return kHeaderBytes + blocks * mask_bytes(); }
  /// Of a warp, with a ring of this many rows.
  [[nodiscard]] std::int64_t region_bytes(int ring_rows) const;
  /// Of a block.
  [[nodiscard]] std::int64_t shared_bytes(int ring_rows) const;

  /// The ring that uniform random nonzeros of this density need (the packer finds the true one).
  [[nodiscard]] int expected_ring_rows(double density) const;

  [[nodiscard]] std::string name() const;
  [[nodiscard]] cuda::Source source(const Problem& problem) const;

  /// lane_expand.cu, for weights whose rings have this many rows, and what a block of it needs.
  static constexpr int kExpandWarps = 4;
  [[nodiscard]] cuda::Source expand_source(int ring_rows) const;
  [[nodiscard]] std::size_t expand_shared_bytes(int ring_rows) const;
};

/// Every configuration that makes sense for the problem at this density.
std::vector<LaneConfig> lane_configs(const Problem& problem, double density,
                                     const cuda::DeviceFacts& device);

/// Microseconds of one run: counted bytes and issue slots, and what a launch costs.
double estimate_us(const LaneConfig& config, const Problem& problem, double density,
                   const cuda::DeviceFacts& device);

}  // namespace rarefy::gpu
