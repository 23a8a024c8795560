// What the kernels for the lane format share (lane_pack.h): stages by bulk copies, values from the
// ring into A fragments, sums of a cluster.
#pragma once

#include "cuda/number.cuh"

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

__device__ __forceinline__ u32 shared_address(const void* p) {
  return static_cast<u32>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void bulk_copy(u32 to, const u8* from, u32 bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void wait_for(u32 barrier, u32 phase) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni past;\nbra.uni again;\npast:\n}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}

__device__ __forceinline__ bool elected() {
  u32 yes;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(yes));
  return yes != 0;
}

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
