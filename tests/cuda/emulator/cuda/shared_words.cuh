#pragma once

#include "cuda/number.cuh"

inline u32 dynamic_shared() {
  return emulator::Block::kBase;
}
inline void store_shared(u32 to, float value) {
  std::memcpy(emulator::Machine::get().now().block->at(to, 4), &value, 4);
}
struct float4;
template <class Four = float4>
Four load_shared(u32 from) {
  Four value;
  std::memcpy(&value, emulator::Machine::get().now().block->at(from, 16), 16);
  return value;
}
