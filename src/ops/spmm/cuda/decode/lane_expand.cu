// The lane format back as dense rows, for products of many tokens: the walk of lane.cu (which says
// how the format works) with stores in place of multiplications.
//
// A warp takes over one warp's stream. Its ring has RING_ROWS rows, a power of two, so that a
// level's row follows from its number alone and no copy meets the ring's end. A stage is fetched
// while the one ahead is written out.
//
// Constants: STRIPS, ROW_WARPS, K_WARPS, BLOCKS, SPLIT as in lane.cu; WARPS of a block, RING_ROWS;
// WIDE (1: warps along rows are neighbours, and a lane has the columns of an mma fragment, 2t, 2t +
// 1, 2t + 8 and 2t + 9, instead of 4t … 4t + 3) and SWAP_BLOCKS (blocks of 16 columns between
// swaps).
#include "cuda/number.cuh"

constexpr int kWarps = WARPS;  // Of a block.
constexpr int kRowBytes = 128;
constexpr int kFragments = STRIPS * SWAP_BLOCKS;  // 16×16 pieces between swaps.
constexpr int kMaskBytes = kFragments * 32;       // Of these.
constexpr int kHeaderBytes = 16;
constexpr int kSlotBytes = kHeaderBytes + BLOCKS / SWAP_BLOCKS * kMaskBytes;
constexpr int kRingBytes = RING_ROWS * kRowBytes;
constexpr int kTogether = BLOCKS % 2 == 0 ? 2 : 1;  // Blocks of columns that are stored at once.
constexpr int kWarpBytes = kRingBytes + 2 * kSlotBytes;

/// As lane.cu's.
struct alignas(16) WarpWork {
  u64 offset;
  u32 stages;
  u32 block;
  u32 copies[2];
  u32 pad[2];
};

__device__ __forceinline__ void copy_16(u8* to, const u8* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<u32>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
}

/// The byte of mask of a fragment.
__device__ __forceinline__ u32 mask_of(const u8* masks, int fragment, int lane) {
  constexpr int kWhole = kFragments / 4 * 4, kRest = kFragments % 4;
  if (fragment < kWhole) return masks[fragment / 4 * 128 + lane * 4 + fragment % 4];
  const int within = fragment - kWhole;
  const u8* rest = masks + kWhole * 32;
  return kRest == 1 ? rest[lane] : within < 2 ? rest[lane * 2 + within] : rest[64 + lane];
}

/// Four values of a row: two neighbours, and two more kApart columns on.
struct Four {
  u32 first, second;
};
constexpr int kApart = WIDE ? 8 : 2;

/// `count`: columns that there are from `to` on.
__device__ __forceinline__ void store(Four v, u16* to, int count, bool aligned) {
  if (aligned && !WIDE) {
    *reinterpret_cast<uint2*>(to) = make_uint2(v.first, v.second);
    return;
  }
  const auto put = [&](u16* at, u32 pair, int left) {
    if (aligned && left > 1) {
      *reinterpret_cast<u32*>(at) = pair;
      return;
    }
    if (left > 0) at[0] = static_cast<u16>(pair);
    if (left > 1) at[1] = static_cast<u16>(pair >> 16);
  };
  put(to, v.first, count);
  put(to + kApart, v.second, count - kApart);
}

/// `count` streams; dense: m rows of k elements.
extern "C" __global__ void __launch_bounds__(kWarps * 32, 3)
    expand_lane(const u8* stream, const WarpWork* works, const i32* strip_rows, u16* dense,
                int count, int m, int k) {
  extern __shared__ __align__(128) u8 shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int index = blockIdx.x * kWarps + warp;
  if (index >= count) return;
  u8* const ring = shared + warp * kWarpBytes;
  u8* const slots = ring + kRingBytes;
  const WarpWork work = works[index];
  const int stages = work.stages;
  if (stages == 0) return;
  constexpr int kOfBlock = ROW_WARPS * K_WARPS;
  const int row_warp = WIDE ? index % ROW_WARPS : index % kOfBlock / K_WARPS;
  const int group = index / kOfBlock / SPLIT * ROW_WARPS + row_warp;
  const bool aligned = k % 4 == 0;

  const u8* next = stream + work.offset;
  u32 fetched = 0;  // Rows.
  const auto fetch = [&](u32 rows, int slot) {
    for (int i = lane * 16; i < kSlotBytes; i += 512)
      copy_16(slots + slot * kSlotBytes + i, next + i);
    for (int i = lane; i < rows * (kRowBytes / 16); i += 32)
      copy_16(ring + (fetched * kRowBytes + i * 16) % kRingBytes, next + kSlotBytes + i * 16);
    asm volatile("cp.async.commit_group;" ::: "memory");
    next += kSlotBytes + rows * kRowBytes;
    fetched += rows;
  };
  fetch(work.copies[1] >> 8 & 0xff, 0);

  // Where a half-column's next value lies, not wrapped yet: its level and its place in a row.
  u32 low_rows = lane * 4, high_rows = low_rows + 2;
  int column = work.block * 16 + lane % 4 * (WIDE ? 2 : 4);
  for (int stage = 0; stage < stages; ++stage) {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncwarp();
    const u8* slot = slots + stage % 2 * kSlotBytes;
    if (stage + 1 < stages) fetch(slot[5], (stage + 1) % 2);
#pragma unroll 1
    for (int pair = 0; pair < BLOCKS; pair += kTogether) {
      Four low_four[kTogether][STRIPS], high_four[kTogether][STRIPS];
#pragma unroll
      for (int block = 0; block < kTogether; ++block) {
        const int swaps = (pair + block) / SWAP_BLOCKS;
        if ((pair + block) % SWAP_BLOCKS == 0) {
          const u32 swap = slot[6 + swaps];
          const u32 low = __shfl_xor_sync(~0u, low_rows, swap & 31);
          const u32 high = __shfl_xor_sync(~0u, high_rows, swap & 31);
          low_rows = swap & 32 ? high : low;
          high_rows = swap & 32 ? low : high;
        }
#pragma unroll
        for (int s = 0; s < STRIPS; ++s) {
          const u32 mask = mask_of(slot + kHeaderBytes + swaps * kMaskBytes,
                                   (pair + block) % SWAP_BLOCKS * STRIPS + s, lane);
          const auto take = [&](int bit, u32& at) -> u32 {
            if ((mask & 1u << bit) == 0) return 0;
            const u32 value = *reinterpret_cast<const u16*>(ring + at % kRingBytes);
            at += kRowBytes;
            return value;
          };
          // In the order of the bits: low, low, high, high, and once more.
          u32 first = take(0, low_rows);
          first |= take(1, low_rows) << 16;
          u32 of_high = take(2, high_rows);
          of_high |= take(3, high_rows) << 16;
          u32 second = take(4, low_rows);
          second |= take(5, low_rows) << 16;
          low_four[block][s] = {first, second};
          second = take(6, high_rows);
          second |= take(7, high_rows) << 16;
          high_four[block][s] = {of_high, second};
        }
      }
      // Both blocks of a row at once: lines that are filled piece by piece, in turn with thousands
      // of others, leave the cache before they are full (writing 14336 x 4096 in pieces of 32, 64,
      // 128 bytes: 96, 65, 50 us).
#pragma unroll
      for (int s = 0; s < STRIPS; ++s) {
        const i32 first = strip_rows[group * STRIPS + s];
        if (first < 0) continue;
        const int row = first + lane / 4;
        u16* const to = dense + static_cast<i64>(row) * k + column;
#pragma unroll
        for (int block = 0; block < kTogether; ++block) {
          const int left = k - column - block * 16;
          if (row < m && left > 0) store(low_four[block][s], to + block * 16, left, aligned);
        }
#pragma unroll
        for (int block = 0; block < kTogether; ++block) {
          const int left = k - column - block * 16;
          if (row + 8 < m && left > 0)
            store(high_four[block][s], to + i64{8} * k + block * 16, left, aligned);
        }
      }
      column += kTogether * 16;
    }
    __syncwarp();  // All lanes have read what the next fetch overwrites.
  }
}
