#pragma once

#include "cuda/number.cuh"

inline u32 dynamic_shared() {
  return emulator::Block::kBase;
}
template <class T>
void store_shared(u32 to, const T& value) {
  std::memcpy(emulator::Machine::get().now().block->at(to, sizeof(T)), &value, sizeof(T));
}
struct uint4;
template <class Four = uint4>
Four load_shared_words(u32 from) {
  Four value;
  std::memcpy(&value, emulator::Machine::get().now().block->at(from, 16), 16);
  return value;
}
struct float4;
template <class Four = float4>
Four load_shared(u32 from) {
  Four value;
  std::memcpy(&value, emulator::Machine::get().now().block->at(from, 16), 16);
  return value;
}
