// What products of block-sparse weights share: how blocks are cut, and the lists that say which are
// there (steps.h makes them).
//
// A group of FEATURES outputs has STRIPS of OUT outputs. It walks along its inputs in slabs of 64;
// a step is a slab with the stored pieces of it, OUT outputs × IN inputs each. Pieces lie in the
// weight's own values: OUT rows × IN columns of a block, or, when the weight is TRANSPOSED, IN rows
// × OUT columns. In shared memory they follow each other in the order of their bits: strip by
// strip, and within one along the slab.
#pragma once

#include "cuda/number.cuh"

constexpr int kSlab = 64;                // Inputs.
constexpr int kStrips = FEATURES / OUT;  // Of a group.
constexpr int kAcross = kSlab / IN;      // Pieces of a strip and slab.
constexpr int kPieceRows = TRANSPOSED ? IN : OUT;
constexpr int kPieceColumns = TRANSPOSED ? OUT : IN;
constexpr int kPieceBytes = OUT * IN * 2;
constexpr int kXBytes = TOKENS * kSlab * 2;
constexpr int kStageBytes = kXBytes + (MOST_PIECES * kPieceBytes + 1023) / 1024 * 1024;
static_assert(OUT == 16 || OUT == 32 || OUT == 64);
static_assert(IN == 16 || IN == 32 || IN == 64);
static_assert(FEATURES % OUT == 0 && kStrips * kAcross <= 64, "a bit for each piece");
static_assert(sizeof(X_TYPE) == 2);

struct alignas(16) Step {
  u32 slab;
  u32 first;       ///< Of its pieces.
  u32 mask, more;  ///< Which: bit strip · kAcross + place along the slab.

  __device__ __forceinline__ u64 pieces() const { return mask | static_cast<u64>(more) << 32; }
  __device__ __forceinline__ int count() const { return __popc(mask) + __popc(more); }
};

/// A tile of the result: a group, and FEATURES × TOKENS of it.
struct Tile {
  u32 group, tokens;
};

/// Where a piece begins among the values: row · 2 + (column / 64), rows of all blocks counted on.
__device__ __forceinline__ int row_of(u32 piece) {
  return piece >> 1;
}
__device__ __forceinline__ int column_of(u32 piece) {
  return (piece & 1) * 64;
}
