// Stored blocks back as dense rows: `dense` is zeros, and block i of the grid copies stored block
// i, a vector of eight 16-bit values a thread.
//
// Constants: BLOCK_ROWS, BLOCK_COLUMNS (of a stored block, multiples of 16), THREADS.
#include "cuda/number.cuh"

constexpr int kVectors = BLOCK_COLUMNS / 8;  // Of a row of a block.

/// @param places row and column of each block, counted in blocks
/// @param row_vectors of a row of `dense`
extern "C" __global__ void __launch_bounds__(THREADS)
    expand_blocks(const uint4* values, const int2* places, uint4* dense, i64 row_vectors) {
  const int2 place = places[blockIdx.x];
  const uint4* const from = values + static_cast<i64>(blockIdx.x) * BLOCK_ROWS * kVectors;
  uint4* const to = dense + static_cast<i64>(place.x) * BLOCK_ROWS * row_vectors +
                    static_cast<i64>(place.y) * kVectors;
  for (int i = static_cast<int>(threadIdx.x); i < BLOCK_ROWS * kVectors; i += THREADS)
    to[i / kVectors * row_vectors + i % kVectors] = from[i];
}
