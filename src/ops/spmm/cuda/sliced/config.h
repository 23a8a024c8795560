// One kernel of the sliced family: what is compiled in, and what it costs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

struct SlicedConfig {
  int planes = 1;         ///< Of 16 bytes a row of B: f32 four columns each, 16-bit types eight.
  std::int64_t part = 0;  ///< Rows of B in shared memory at a time; a multiple of 8.
  int parts = 1;          ///< Passes over K.
  int lanes = 1;          ///< That share a row of A.
  int threads = 1024;     ///< Of a block.
  int blocks = 1;         ///< Of a multiprocessor, at the same time.

  /// "sliced.n8.k4096x2.g2.t1024x1"
  [[nodiscard]] std::string name(const Problem& problem) const;
  [[nodiscard]] cuda::Source source(const Problem& problem) const;
  /// The text that writes a weight of this configuration out as dense rows.
  [[nodiscard]] cuda::Source expand_source(const Problem& problem) const;
  /// Columns of B that a block works on.
  [[nodiscard]] int tile(const Problem& problem) const;
  [[nodiscard]] std::size_t shared_bytes(const Problem& problem, std::int64_t slots) const;
  /// Blocks that share a tile of columns, so that all multiprocessors have work.
  [[nodiscard]] std::int64_t ranges(const Problem& problem, const cuda::DeviceFacts& device) const;
};

/// Rows of more nonzeros than this are cut.
std::int64_t longest_item(const SlicedConfig& config, double mean);

/// Estimated time of one run, from counted bytes, issue slots and cycles of shared memory.
double estimate_us(const SlicedConfig& config, const Problem& problem, double mean,
                   const cuda::DeviceFacts& device);

}  // namespace rarefy::gpu
