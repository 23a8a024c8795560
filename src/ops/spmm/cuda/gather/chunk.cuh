// A chunk of the gather format, as gather.cu and expand.cu read it. Each includes it once: it has
// no guard, since the constants decide what it says.
//
// A lane holds a nonzero of each pair of steps, and a column for each (gather.cu: which). Words: 8
// steps, 16 bytes a lane, a nonzero's value below its column. Delta: 16 steps; 512 bytes of values,
// 16 a lane; then 8 bytes a lane with the column of the first pair and the steps to the others, 7
// bits each: what is added to the column before, and BACK more.
//
// Constants: DELTA (1 or 0), BACK.
constexpr int kPairs = DELTA ? 8 : 4;  // Of steps, a chunk.
constexpr u32 kChunkBytes = DELTA ? 768 : 512;
constexpr u32 kColumnsAt = 512;  // Of a chunk with delta columns.

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

/// What a lane has of delta columns.
struct LaneColumns {
  u32 low, high;
};

__device__ __forceinline__ u32 first_column(LaneColumns columns) {
  return columns.high >> 21 << 4 | columns.low >> 28;
}

/// What is added to the column of pair - 1.
__device__ __forceinline__ int column_step(LaneColumns columns, int pair) {
  const u32 from = pair <= 4 ? columns.low >> 7 * (pair - 1) : columns.high >> 7 * (pair - 5);
  return static_cast<int>(from & 127) - BACK;
}
