// One kernel of the composed family: what is assembled, and how it is launched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "ops/spmm/cuda/composed/vectors.h"
#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

/// Vectors and rows of a block that shares nonzeros evenly: what its shared memory must hold.
struct EvenShare {
  std::int64_t vectors = 0, rows = 0;
};

struct ComposedConfig {
  int index_bits = 16;      ///< Of a column: 16 or 32; 6 for delta (columns.cuh).
  int vec = 4;              ///< Nonzeros that a thread loads at once.
  int unroll = 1;           ///< Such loads in flight.
  int group = 8;            ///< Threads that share the nonzeros of a row.
  int n_tile = 1;           ///< Columns of B that a block works on.
  int n_lanes = 1;          ///< Threads that share these columns.
  int threads = 512;        ///< Of a block.
  int blocks = 1;           ///< Of a multiprocessor, at the same time.
  bool staged = true;       ///< B in shared memory; else gathered through the caches.
  bool even = false;        ///< Blocks and threads share nonzeros wherever rows end (even.cu).
  bool any_order = false;   ///< Pieces of rows are added atomically: other bits every time.
  bool baked = false;       ///< K is a constant of the kernel, and of the weight:
  bool whole_rows = false;  ///< that items are rows, so that their number is one, too,
  int item_vectors = 0;     ///< and this, where all items have as many vectors; else 0.

  bool operator==(const ComposedConfig&) const = default;

  /// "composed.csr16.g8.v4.u1.n1x1.t512x1.staged"
  [[nodiscard]] std::string name() const;
  /// The kernel's text for these dtypes, layout and epilogue.
  [[nodiscard]] cuda::Source source(const Problem& problem) const;
  /// The text that writes a weight of this configuration out as dense rows; one for all that store
  /// it alike.
  [[nodiscard]] cuda::Source expand_source(const Problem& problem) const;
  /// B as it lies in shared memory: f32 for one column, where the conversion would be paid at every
  /// gather, else as it comes.
  [[nodiscard]] DType staged_type(const Problem& problem) const;
  /// Whether rows of B lie swizzled in shared memory: row i at i ^ (i / 8 % 8). Columns are packed
  /// as these places.
  [[nodiscard]] bool swizzled(const Problem& problem) const;
  [[nodiscard]] bool delta() const { return index_bits == kDeltaBits; }
  static constexpr int kDeltaBits = VectorFormat::kDeltaBits;
  /// Dynamic shared memory of a block.
  [[nodiscard]] std::size_t shared_bytes(const Problem& problem) const;
  /// The same where nonzeros are shared evenly.
  [[nodiscard]] std::size_t shared_bytes(const Problem& problem, const EvenShare& share) const;
  /// Whether the blocks of a multiprocessor have room for their shares of the nonzeros.
  [[nodiscard]] Support holds(const Problem& problem, const EvenShare& share,
                              const cuda::DeviceFacts& device) const;
  /// Whether the kernel can be compiled and launched, and if not, why.
  [[nodiscard]] Support legal(const Problem& problem, const cuda::DeviceFacts& device) const;
};

/// How rows become items: what packing needs to know of a configuration.
struct RowStats {
  double mean = 0;                         ///< Nonzeros of a row.
  std::int64_t shortest = 0, longest = 0;  ///< Of all rows.
};
RowStats row_stats(const PatternStats& pattern);

/// What a row of so many nonzeros stores: delta has zeros in steps over 63, but for those from one
/// vector to the next.
double stored_nonzeros(const ComposedConfig& config, double nonzeros, const RowStats& rows,
                       std::int64_t k);

/// Rows of more nonzeros than this are shared by several groups, or cut into pieces: a row that
/// takes several times as long as the others would keep one group busy when all are done.
std::int64_t longest_item(const ComposedConfig& config, const RowStats& rows);

/// Groups of a warp, which can share a row: 1, 2, 4 or 8.
int neighbours(const ComposedConfig& config);

/// The vectors of every item, where all have as many and none is cut; else 0.
int alike_vectors(const ComposedConfig& config, const RowStats& rows);

/// Blocks that share nonzeros evenly.
int even_blocks(const ComposedConfig& config, const cuda::DeviceFacts& device);

/// About what such a block gets: all get as much as the heaviest.
EvenShare even_share(const ComposedConfig& config, const Problem& problem, const RowStats& rows,
                     const cuda::DeviceFacts& device);

/// Estimated time of one run, from counted bytes, issue slots, shared-memory cycles and latencies.
double estimate_us(const ComposedConfig& config, const Problem& problem, const RowStats& rows,
                   const cuda::DeviceFacts& device);

}  // namespace rarefy::gpu
