// Clusters of blocks that share their shared memory: PTX of compute capability 9.0.
#pragma once

#include "cuda/number.cuh"

/// Which block of its cluster this is.
__device__ __forceinline__ u32 cluster_rank() {
  u32 rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// All threads of the cluster have come here, and see what the others have written before.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

/// Arrives at the barrier that lies where `barrier` does, in the block `rank`.
__device__ __forceinline__ void arrive_at(u32 barrier, u32 rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

/// wait_for (shared_barrier.cuh) for what other blocks of the cluster arrive at.
__device__ __forceinline__ void wait_for_cluster(u32 barrier, u32 phase) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni past;\nbra.uni again;\npast:\n}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}
