// Programmatic dependent launch: a kernel that was launched with Launch::overlaps_previous starts
// while the one before still runs. Nothing before sm_90 knows it; there both do nothing.
#pragma once

/// Until the kernel before has ended and what it wrote can be seen. Every block must wait, also one
/// that has nothing to do: the kernel after waits for this one alone.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The kernel after may start, once all blocks have said so: it loads what does not depend on this
/// one, its weights.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
