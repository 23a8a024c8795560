// A chunk of the gather format, as gather.cu and expand.cu read it. It has no guard: tests include
// it with other constants.
//
// A lane holds a nonzero of each pair of steps, and a column for each (gather.cu: which). Words: 8
// steps, 16 bytes a lane, a nonzero's value below its column. Delta columns: 16 steps; 512 bytes of
// values, 16 a lane; then, 8 bytes a lane and, of 11 bits, 4 more, the column of the first pair and
// the steps to the others: what is added to the column before, and BACK more.
//
// Constants: DELTA (bits of a step, 7 or 11, or 0), BACK.
static_assert(DELTA == 0 || DELTA == 7 || DELTA == 11, "what LaneColumns knows");
constexpr int kPairs = DELTA > 0 ? 8 : 4;  // Of steps, a chunk.
constexpr u32 kColumnsAt = 512;            // Of a chunk with delta columns.
constexpr u32 kMoreAt = 768;
constexpr u32 kChunkBytes = DELTA == 11 ? 896 : DELTA == 7 ? 768 : 512;

/// A warp's part of its block's chunks. Laid out by the packer (gather_pack.h).
struct alignas(16) GatherWarp {
  u64 first;  // Chunk in the stream.
  u32 chunks;
  u32 strip;  // That it begins in …
  u32 left;   // … and chunks until that ends.
  u32 slot;   // Of the sums of its first piece; the others follow.
  u32 pad[2];
};

/// A strip of a block. The sums of its pieces lie in consecutive slots.
struct GatherStrip {
  u32 chunks;
  u16 first_slot, slots;
};

constexpr u32 kNoRow = 0xFFFF;  // Of an extra place without a run.

/// What a lane has of delta columns; `more`: of 11 bits.
struct LaneColumns {
  u32 low, high, more;
};

__device__ __forceinline__ u32 first_column(LaneColumns c) {
  return DELTA == 7 ? c.high >> 21 << 4 | c.low >> 28 : (c.high >> 22 & 31) << 10 | c.low >> 22;
}

/// What is added to the column of pair - 1.
__device__ __forceinline__ int column_step(LaneColumns c, int pair) {
  u32 from;
  if (DELTA == 7) {
    from = pair <= 4 ? c.low >> 7 * (pair - 1) : c.high >> 7 * (pair - 5);
  } else if (pair == 7) {
    from = c.more >> 22 << 5 | c.high >> 27;
  } else {
    from = (pair <= 2 ? c.low : pair <= 4 ? c.high : c.more) >> (pair % 2 != 0 ? 0 : 11);
  }
  return static_cast<int>(from & ((1u << DELTA) - 1)) - BACK;
}
