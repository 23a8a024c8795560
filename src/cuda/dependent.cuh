// Programmatic dependent launch: a kernel that begins before the one ahead of it has ended.
//
// A launch with `overlaps_previous` may run what does not depend on earlier kernels (loading a
// weight, which never changes) at once; it must call wait_for_previous() before it touches anything
// else, and before it writes. Without that launch attribute, or below sm_90, both calls do nothing.
#pragma once

/// Everything that kernels ahead in the stream have written can be read from here on.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The next kernel may start as soon as all blocks have said so and there is room.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
