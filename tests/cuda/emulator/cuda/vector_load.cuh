// Loads of 2 to 16 bytes at once.
#pragma once

#include "cuda/number.cuh"

template <class T, int COUNT>
struct alignas(sizeof(T) * COUNT < 16 ? sizeof(T) * COUNT : 16) Pack {
  T value[COUNT];
};

template <class T, int COUNT>
Pack<T, COUNT> load_once(const Pack<T, COUNT>* from) {
  return *from;
}

inline void prefetch_l2(const void*) {}
