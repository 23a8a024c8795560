// Where the tokens of a run stand: one Place a row. The host's twin is in place.h.
#pragma once

#include "cuda/number.cuh"

/// Keys and values of a sequence lie as [layer][keys, values][capacity][KV_HEADS · HEAD_DIM].
struct Place {
  u64 memory;    // Address of the sequence's keys and values.
  i32 capacity;  // Positions that they have room for.
  i32 position;  // Of this token; negative: a row that only fills the batch.
  i32 token;     // Its id.
  i32 unused;
};

/// Row 0 of a layer's keys; its values come `capacity` rows later.
template <class T>
__device__ __forceinline__ T* layer_keys(const Place& place, int layer, int width) {
  return reinterpret_cast<T*>(place.memory) + 2 * static_cast<i64>(layer) * place.capacity * width;
}
