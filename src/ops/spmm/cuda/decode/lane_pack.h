// The lane format: a weight in the order in which the warps of lane.cu and wide.cu use it up.
//
// Each warp has a stream of stages. A stage of LaneConfig::blocks blocks (16 columns each) is
//   a header of 16 bytes: how the value rows of the *next* stage go into the ring (first, to,
//   again,
//     again_to, again_from, rows: a byte each), then a byte a swap: which half-columns swap;
//   the masks: 32 bytes for each fragment (16×16, strip by strip, then block by block) between
//   swaps,
//     a byte a lane;
//   the new value rows, 128 bytes each: value [lane][half], half 0 for row g, 1 for row g + 8.
// Nothing else is stored: 1/8 byte a position, 2 bytes a nonzero, and what padding is left (2–5 %).
#pragma once

#include <cstdint>
#include <vector>

#include "formats/csr.h"
#include "ops/spmm/cuda/decode/lane_config.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

/// As WarpWork of lane.cuh.
struct LaneWork {
  std::uint64_t offset = 0;
  std::uint32_t stages = 0;
  std::uint32_t block = 0;
  std::uint32_t copies[2] = {};
  std::uint32_t strips = 0;  ///< That it has: the first of the configuration's.
  std::uint32_t pad = 0;
};
static_assert(sizeof(LaneWork) == 32);

struct LaneArrays {
  std::vector<std::byte> stream;
  std::vector<LaneWork> works;           ///< [row tile][split][warp]
  std::vector<std::int32_t> strip_rows;  ///< [group][strip]: the first row, -1 for none.
  int ring_rows = 0;                     ///< That every warp's ring must have.
  std::int64_t nonzeros = 0;
};

/// Packs a CSR of f16 or bf16 values. Stored zeros stay. Strips are dealt to the groups by their
/// nonzeros, so that skewed rows load all blocks alike. The same bytes for any number of threads.
/// Throws `Error` (kUnsupported) when the ring would exceed 255 rows.
LaneArrays pack_lane(const CsrMatrix& csr, const LaneConfig& config, ThreadPool& pool);

/// The way back, for tests: row-major M×K bits, decoded through rings as the kernel does. Throws
/// `Error` (kInternal) where the kernel would read a row that had not arrived or was overwritten.
std::vector<std::uint16_t> unpack_lane(const LaneArrays& arrays, const LaneConfig& config,
                                       std::int64_t rows, std::int64_t cols);

}  // namespace rarefy::gpu
