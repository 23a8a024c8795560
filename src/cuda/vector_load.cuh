// Loads of 2 to 16 bytes at once, with hints for data that is read once.
#pragma once

#include "cuda/number.cuh"

/// COUNT values that are loaded and kept together; COUNT·sizeof(T) is a power of two.
template <class T, int COUNT>
struct alignas(sizeof(T) * COUNT < 16 ? sizeof(T) * COUNT : 16) Pack {
  T value[COUNT];
};

template <int BYTES>
struct Words;
template <>
struct Words<2> {
  u16 bits;
};
template <>
struct Words<4> {
  u32 bits;
};
template <>
struct Words<8> {
  uint2 bits;
};
template <>
struct Words<16> {
  uint4 bits;
};

__device__ __forceinline__ void load_once(Words<2>& to, const void* from) {
  asm("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(to.bits) : "l"(from));
}
__device__ __forceinline__ void load_once(Words<4>& to, const void* from) {
  asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(to.bits) : "l"(from));
}
__device__ __forceinline__ void load_once(Words<8>& to, const void* from) {
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
      : "=r"(to.bits.x), "=r"(to.bits.y)
      : "l"(from));
}
__device__ __forceinline__ void load_once(Words<16>& to, const void* from) {
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(to.bits.x), "=r"(to.bits.y), "=r"(to.bits.z), "=r"(to.bits.w)
      : "l"(from));
}

/// Reads a pack that no other thread reads, past L1.
template <class T, int COUNT>
__device__ __forceinline__ Pack<T, COUNT> load_once(const Pack<T, COUNT>* from) {
  constexpr int kBytes = sizeof(T) * COUNT;
  constexpr int kPiece = kBytes < 16 ? kBytes : 16;
  union {
    Pack<T, COUNT> pack;
    Words<kPiece> words[kBytes / kPiece];
  } both;
#pragma unroll
  for (int i = 0; i < kBytes / kPiece; ++i)
    load_once(both.words[i], reinterpret_cast<const char*>(from) + i * kPiece);
  return both.pack;
}

__device__ __forceinline__ void prefetch_l2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}
