// The scatter format: a weight as the stages that the blocks of scatter.cu multiply.
//
// A tile is ScatterConfig::rows rows, in groups of eight that are dealt to the tiles by their
// nonzeros. Its stages, 64 columns each that hold a nonzero, are shared evenly by the blocks of a
// cluster. A stage is rounds of 32 words: a nonzero's place in the tile, in bytes, in the high
// half, its value in the low half; padding (on average 16 words a stage) goes behind the tile's
// rows. Places of a round lie in different banks as far as the stage's fullest banks allow.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/csr.h"
#include "ops/spmm/cuda/scatter/scatter_config.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

/// As in block.cuh.
struct ScatterBlock {
  std::uint64_t first = 0;
  std::uint32_t first_stage = 0;
  std::uint32_t stages = 0;
};
static_assert(sizeof(ScatterBlock) == 16);

struct ScatterArrays {
  std::vector<std::uint32_t> stream;  ///< Words of all blocks.
  std::vector<std::uint32_t> stages;  ///< Rounds << 16 | block of 64 columns, of all blocks.
  std::vector<ScatterBlock> blocks;   ///< [tile][split]
  std::vector<std::int32_t> groups;   ///< [tile][rows / 8]: first rows, -1 for none.
  int most_stages = 0;                ///< Of a block.
  int most_rounds = 1;                ///< Of a stage.
  std::int64_t nonzeros = 0;
};

/// Packs a CSR of f16 or bf16 values. Stored zeros stay. The same bytes for any number of threads.
ScatterArrays pack_scatter(const CsrMatrix& csr, const ScatterConfig& config, ThreadPool& pool);

/// The way back, for tests: row-major M×K bits, through tiles as the kernel fills and clears them.
/// Throws `Error` (kInternal) where two words of a stage meet or a word leaves its tile.
std::vector<std::uint16_t> unpack_scatter(const ScatterArrays& arrays, const ScatterConfig& config,
                                          std::int64_t rows, std::int64_t cols);

}  // namespace rarefy::gpu
