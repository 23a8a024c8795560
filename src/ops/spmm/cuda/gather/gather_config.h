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
  int groups = 1;     ///< Of 16 rows, a tile.
  int columns = 8;    ///< Of a block: a multiple of 8.
  bool tall = false;  ///< Tiles as high as shared memory allows: blocks divide tokens, not rows.
  /// Columns as steps of 7 or 11 bits from the column before: 3 or 3.5 bytes a nonzero; 0: 4.
  int delta = 0;
  /// Of a block, that shared memory has room for: `groups`, and more where rows are cut.
  int most_strips = 1;

  static constexpr int kStripRows = 16;

  /// In a step, each row of a strip has one nonzero.
  [[nodiscard]] int chunk_steps() const { return delta > 0 ? 16 : 8; }
  [[nodiscard]] int chunk_bytes() const { return delta == 11 ? 896 : delta == 7 ? 768 : 512; }
  [[nodiscard]] int blocks() const { return tiles * split; }
  /// @param strips of a block
  [[nodiscard]] std::int64_t shared_bytes(int strips) const;
  [[nodiscard]] std::string name() const;
  [[nodiscard]] cuda::Source source(const Problem& problem) const;
  [[nodiscard]] cuda::Source expand_source() const;  ///< expand.cu: one for each `delta`.
};

/// Every configuration that makes sense for the problem.
std::vector<GatherConfig> gather_configs(const Problem& problem, const cuda::DeviceFacts& device);

/// What estimates need to know of a pattern: worked out once for all configurations.
struct StripStats {
  double density = 0;
  double whole = 0;  ///< Steps of a strip, mean: of rows of like length,
  double cut = 0;    ///< and where long rows are cut.
  double zeros = 0;  ///< That a nonzero takes where steps of 7 bits do not reach the next.
};
StripStats strip_stats(const PatternStats& pattern);

/// Microseconds of one run: bytes, shared memory, issue slots, and what the ends cost.
double estimate_us(const GatherConfig& config, const Problem& problem, const StripStats& of_pattern,
                   const cuda::DeviceFacts& device);

}  // namespace rarefy::gpu
