// Boxes of a matrix to shared memory by the tensor copy engine: PTX of compute capability 9.0.
#pragma once

#include "cuda/number.cuh"

/// What the engine must know of a matrix; made by the host (tensor_map.h), a kernel's parameter is
/// `const __grid_constant__`.
struct alignas(128) TensorMap {
  u64 words[16];
};

/// The box whose first element is (row y, column x); its bytes arrive on `barrier`.
__device__ __forceinline__ void copy_box(u32 to, const TensorMap& map, int x, int y, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], [%4];" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}
