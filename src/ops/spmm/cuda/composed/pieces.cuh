// The end of the cascade: sums of rows that were cut into pieces, which different groups have.
//
// Every group leaves the sums of its piece; whoever comes last has the whole: it adds up what the
// others left in a fixed order (the same bits every time), or, with ANY_ORDER, takes what all have
// added atomically.
#pragma once

#include "cuda/number.cuh"

struct Pieces {
  const u32* row_of_piece;  ///< Which of the cut rows, for every piece.
  const u32* rows;          ///< The row of C of every cut row,
  const u32* first;         ///< and its pieces: [first[i], first[i + 1]).
  float* sums;   ///< Pieces × tiles × N_TILE; with ANY_ORDER one a cut row, zeros between
                 ///< runs.
  u32* arrived;  ///< Cut rows × tiles, zeros between runs.

  __device__ __forceinline__ float* sum_of(u32 owner, int column) const {
    return sums + (static_cast<i64>(owner) * gridDim.y + blockIdx.y) * N_TILE + column;
  }

  /// A piece's sum of one column of the tile.
  __device__ __forceinline__ void leave(u32 piece, int column, float sum) const {
    if constexpr (ANY_ORDER) {
      atomicAdd(sum_of(row_of_piece[piece], column), sum);
    } else {
      *sum_of(piece, column) = sum;
    }
  }

  /// Whether this group's piece was the last of its row; then says of which. All of the warp call
  /// it: those with a `piece`, which have left all sums, and a leader for each group.
  __device__ __forceinline__ bool is_last(bool piece, u32 index, bool leads, int leader,
                                          u32& row) const {
    __threadfence();
    __syncwarp();
    u32 last = 0;
    u32 cut = 0;
    if (piece) cut = row_of_piece[index];
    if (piece && leads) {
      u32* const counter = arrived + static_cast<i64>(cut) * gridDim.y + blockIdx.y;
      last = atomicAdd(counter, 1u) + 1 == first[cut + 1] - first[cut];
      if (last) *counter = 0;
    }
    last = __shfl_sync(0xFFFFFFFFu, last, leader);
    if (!piece || !last) return false;
    __threadfence();
    row = rows[cut];
    return true;
  }

  /// The sum of all pieces of the row that `piece` belongs to.
  __device__ __forceinline__ float take(u32 piece, int column) const {
    const u32 cut = row_of_piece[piece];
    if constexpr (ANY_ORDER) {
      return atomicExch(sum_of(cut, column), 0.0f);
    } else {
      float sum = 0;
#pragma unroll 1
      for (u32 i = first[cut]; i < first[cut + 1]; ++i)
        sum += *static_cast<const volatile float*>(sum_of(i, column));
      return sum;
    }
  }
};
