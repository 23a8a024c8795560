// What device code finds instead of CUDA's built-ins, and of src/cuda/*.cuh.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "emulator/machine.h"

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx (::emulator::Dim{::emulator::Machine::get().now().index, 0, 0})
#define blockIdx (::emulator::Dim{::emulator::Machine::get().now().block->index, 0, 0})
#define gridDim (::emulator::Dim{::emulator::Machine::get().launch().grid, 1, 1})

#include "cuda/number.cuh"
#include "cuda/shared_barrier.cuh"
#include "cuda/shared_words.cuh"
#include "cuda/tensor_copy.cuh"
#include "cuda/tensor_core.cuh"
#include "cuda/warpgroup.cuh"

using std::max;
using std::min;

struct float4 {
  float x, y, z, w;
};
struct uint4 {
  u32 x, y, z, w;
};
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) {
  return {x, y, z, w};
}

inline int __popc(u32 x) {
  return __builtin_popcount(x);
}
inline int __popcll(u64 x) {
  return __builtin_popcountll(x);
}
inline int __ffs(u32 x) {
  return __builtin_ffs(static_cast<int>(x));
}
inline void __syncthreads() {
  auto& machine = emulator::Machine::get();
  machine.meet(machine.now().block->meetings[0], machine.launch().threads);
}
inline void __syncwarp() {
  int nothing = 0;
  emulator::Machine::get().together(nothing, [](auto&) {});
}
template <class T>
T __shfl_sync(u32, T value, int from) {
  struct Mine {
    T value, result;
    int from;
  } mine{value, {}, from};
  emulator::Machine::get().together(mine, [](auto& all) {
    for (Mine* m : all) m->result = all[static_cast<unsigned>(m->from) % 32]->value;
  });
  return mine.result;
}
template <class T>
T __shfl_xor_sync(u32 all, T value, int distance) {
  return __shfl_sync(all, value, static_cast<int>(threadIdx.x % 32) ^ distance);
}
inline int __any_sync(u32, int predicate) {
  struct Mine {
    int predicate, any;
  } mine{predicate, 0};
  emulator::Machine::get().together(mine, [](auto& all) {
    int any = 0;
    for (const Mine* m : all) any |= m->predicate;
    for (Mine* m : all) m->any = any;
  });
  return mine.any;
}
