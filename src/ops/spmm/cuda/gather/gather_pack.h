// The gather format: a weight as the chunks that the warps of gather.cu use up.
//
// A tile of rows belongs to a cluster; each of its blocks has a range of columns and sorts the
// tile's rows by their nonzeros there. 16 rows in that order make a strip, where some are much
// longer than the others also 16 runs of rows (gather_strips.h). Eight steps of a strip (16 with
// delta columns) make a chunk, laid out as chunk.cuh says: 4, 3.5 or 3 bytes a nonzero, and padding
// where a strip's runs differ in length and where its last chunk is not full (2–4 % at 90 %, 15 %
// at 99 % of 4096 columns).
#pragma once

#include <cstdint>
#include <vector>

#include "formats/csr.h"
#include "ops/spmm/cuda/gather/gather_config.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

/// As in chunk.cuh.
struct GatherWarp {
  std::uint64_t first = 0;
  std::uint32_t chunks = 0;
  std::uint32_t strip = 0;
  std::uint32_t left = 0;
  std::uint32_t slot = 0;
  std::uint32_t pad[2] = {};
};
static_assert(sizeof(GatherWarp) == 32);

struct GatherStrip {
  std::uint32_t chunks = 0;
  std::uint16_t first_slot = 0, slots = 0;
};
static_assert(sizeof(GatherStrip) == 8);

/// What extra places without a run belong to.
constexpr std::uint16_t kGatherNoRow = 0xFFFF;

struct GatherArrays {
  std::vector<std::uint32_t> stream;  ///< Chunks of all blocks.
  std::vector<GatherWarp> warps;      ///< [block][warp]
  std::vector<GatherStrip> strips;    ///< [block][strip]
  /// [block]: [strip][run], where the run's sum is stored: a row's first at its place in the tile,
  /// its others from 16 · groups on, one after the other; then, for each of these extra places, the
  /// row's place, or kGatherNoRow.
  std::vector<std::uint16_t> places;
  std::vector<std::int32_t> groups;  ///< [tile][group]: place / 16 → first row; -1: none.
  int strips_a_block = 0;  ///< The most that one needs: at least `groups` of the configuration.
  std::int64_t nonzeros = 0;
  std::int64_t conflicts = 0;  ///< Nonzeros that share a bank with another of their matrix.
};

/// Packs a CSR of f16 or bf16 values. Stored zeros stay. Groups of 16 rows are dealt to the tiles
/// by their nonzeros, and long rows are cut, so that skewed rows load all blocks alike. The same
/// bytes for any number of threads.
GatherArrays pack_gather(const CsrMatrix& csr, const GatherConfig& config, ThreadPool& pool);

/// The way back, for tests: row-major M×K bits, decoded as the kernel does.
std::vector<std::uint16_t> unpack_gather(const GatherArrays& arrays, const GatherConfig& config,
                                         std::int64_t rows, std::int64_t cols);

}  // namespace rarefy::gpu
