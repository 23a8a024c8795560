// The columns of a vector of nonzeros, as they are stored and as places of B.
//
// CSR: VEC indices of 16 or 32 bits. Delta (8 nonzeros in 8 bytes): the first column in bits 0–15,
// then seven steps of 6 bits, two in the low word from bit 16 on, five in the high word. 1 byte a
// nonzero instead of 2; steps over 63 pass through zeros that are stored.
#pragma once

#include "cuda/vector_load.cuh"
#include "ops/spmm/cuda/composed/activations.cuh"

#if DELTA
static_assert(VEC == 8, "a delta vector has eight nonzeros");

struct Columns {
  Pack<u32, 2> words;

  __device__ __forceinline__ void places(u32 (&place)[VEC]) const {
    constexpr u32 kStep = 63;
    const u32 low = words.value[0];
    const u32 high = words.value[1];
    u32 column = low & 0xFFFFu;
    place[0] = place_of(column);
#pragma unroll
    for (int i = 1; i < VEC; ++i) {
      column += (i < 3 ? low >> (10 + 6 * i) : high >> (6 * i - 18)) & kStep;
      place[i] = place_of(column);
    }
  }
};
__device__ __forceinline__ Columns load_columns(const Columns* from) {
  return {load_once(&from->words)};
}
#else
/// Packed as places already.
struct Columns {
  Pack<INDEX, VEC> place_;

  __device__ __forceinline__ void places(u32 (&place)[VEC]) const {
#pragma unroll
    for (int i = 0; i < VEC; ++i) place[i] = place_.value[i];
  }
};
__device__ __forceinline__ Columns load_columns(const Columns* from) {
  return {load_once(&from->place_)};
}
#endif
