// Around wgmma: what orders it, and registers for it. PTX of compute capability 9.0a. The
// instruction itself names all its registers: warpgroup_text.h writes it; operand.cuh describes
// what it reads.
#pragma once

#include "cuda/number.cuh"

/// Before the first product of a group: registers and shared memory that it reads are ready.
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until only the last PENDING groups may still run.
template <int PENDING>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/// A warpgroup gives registers back, or takes them: COUNT a thread, a multiple of 8.
template <int COUNT>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

/// A barrier of `threads` threads, one of 1 … 15 (0 is __syncthreads').
__device__ __forceinline__ void sync_threads(u32 barrier, u32 threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
