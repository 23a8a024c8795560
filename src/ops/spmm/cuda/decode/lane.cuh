// What the kernels for the lane format share (lane_pack.h): stages by bulk copies, values from the
// ring into A fragments, sums of a cluster.
#pragma once

#include "cuda/shared_barrier.cuh"

constexpr int kRowBytes = 128;  // Of a level.
constexpr int kHeaderBytes = 16;

/// What a warp does. Laid out by the packer (lane_pack.h).
struct alignas(16) WarpWork {
  u64 offset;  // Of its stages in the stream.
  u32 stages;
  u32 block;      // Its first block of 16 columns.
  u32 copies[2];  // Header of the first stage.
  u32 strips;     // That it has: the first of its STRIPS.
  u32 pad;
};

/// Fetches a warp's stages: masks to one of two slots, rows of values to the ring at `ring`. The
/// addresses are of shared memory, `barriers` one for each slot.
template <int SLOT_BYTES>
struct StageCopies {
  const u8* next;
  u32 ring, slots, barriers;
  u32 slot = 0;

  /// first, second: the stage's header. Rows go to `to_row` and, where they are also behind the
  /// ring's end or wrap around it, `again` rows from `again_from` on to `again_to`.
  __device__ __forceinline__ void fetch(u32 first, u32 second) {
    const u32 rows_now = first & 0xff, to_row = first >> 8 & 0xff, again = first >> 16 & 0xff,
              again_to = first >> 24, again_from = second & 0xff, rows = second >> 8 & 0xff;
    const u32 barrier = barriers + slot * 8;
    if (elected()) {
      arrive_expecting(barrier, SLOT_BYTES + (rows_now + again) * kRowBytes);
      bulk_copy(slots + slot * SLOT_BYTES, next, SLOT_BYTES, barrier);
      if (rows_now != 0)
        bulk_copy(ring + to_row * kRowBytes, next + SLOT_BYTES, rows_now * kRowBytes, barrier);
      if (again != 0)
        bulk_copy(ring + again_to * kRowBytes, next + SLOT_BYTES + again_from * kRowBytes,
                  again * kRowBytes, barrier);
    }
    next += SLOT_BYTES + rows * kRowBytes;
    slot ^= 1;
  }
};

/// The eight positions of a lane in a strip, apart: merging waits for the loads, so it is done one
/// strip later.
struct Loaded {
  u32 low[4], high[4];
};

/// `low_rows` and `high_rows` point at the next values of rows g and g + 8. Plain C++ on purpose:
/// ptxas turns these tests into R2P, seven predicates an instruction, where inline assembly gets a
/// LOP3 a position.
__device__ __forceinline__ Loaded load_strip(const u8* shared, u32 mask, u32& low_rows,
                                             u32& high_rows) {
  Loaded v;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    u32& next = (r & 1) ? high_rows : low_rows;
    v.low[r] = v.high[r] = 0;
    if (mask & (1u << (2 * r))) {
      v.low[r] = *reinterpret_cast<const u16*>(shared + next);
      next += kRowBytes;
    }
    if (mask & (2u << (2 * r))) {
      v.high[r] = *reinterpret_cast<const u16*>(shared + next);
      next += kRowBytes;
    }
  }
  return v;
}

__device__ __forceinline__ void merge(const Loaded& v, u32 (&a)[4]) {
#pragma unroll
  for (int r = 0; r < 4; ++r)
    asm("mad.lo.u32 %0, %1, 65536, %2;" : "=r"(a[r]) : "r"(v.high[r]), "r"(v.low[r]));
}

/// The bytes of mask of a lane, COUNT of them: rows of 32-bit words, then of what is left.
template <int COUNT>
__device__ __forceinline__ void load_masks(const u8* masks, int lane,
                                           u32 (&words)[(COUNT + 3) / 4]) {
#pragma unroll
  for (int q = 0; q < COUNT / 4; ++q)
    words[q] = *reinterpret_cast<const u32*>(masks + q * 128 + lane * 4);
  const u8* rest = masks + COUNT / 4 * 128;
  if constexpr (COUNT % 4 == 1) words[COUNT / 4] = rest[lane];
  if constexpr (COUNT % 4 == 2) words[COUNT / 4] = *reinterpret_cast<const u16*>(rest + lane * 2);
  if constexpr (COUNT % 4 == 3)
    words[COUNT / 4] =
        *reinterpret_cast<const u16*>(rest + lane * 2) | static_cast<u32>(rest[64 + lane]) << 16;
}

__device__ __forceinline__ float4 load_sums(u32 at) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(at));
  return v;
}

__device__ __forceinline__ void store_sums(u32 at, float4 v) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(at), "f"(v.x), "f"(v.y), "f"(v.z),
               "f"(v.w)
               : "memory");
}

__device__ __forceinline__ float4 load_sums_of(u32 rank, u32 at) {
  u32 there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(there));
  return v;
}

__device__ __forceinline__ float4 add(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

/// Waits until all blocks of the cluster have come here, what they have read being theirs: without
/// the wait for stores that a barrier which publishes them brings.
__device__ __forceinline__ void leave_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::
                   : "memory");
}
