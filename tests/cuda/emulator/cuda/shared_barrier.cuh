#pragma once

#include "cuda/number.cuh"

inline void init_barrier(u32 barrier, u32 arrivals) {
  emulator::Block& block = *emulator::Machine::get().now().block;
  block.at(barrier, 8);
  block.barriers[barrier] = {static_cast<int>(arrivals), static_cast<int>(arrivals), 0, 0};
}
inline void publish_barriers() {}
inline void fence_async_proxy() {}

namespace emulator {
inline void arrive_in(Block& block, u32 address, std::int64_t bytes) {
  Barrier& barrier = block.barrier(address);
  barrier.bytes += bytes;
  if (--barrier.pending < 0) throw std::runtime_error("emulated GPU: one arrival too many");
  barrier.check_complete();
}
}  // namespace emulator

inline void arrive(u32 barrier) {
  emulator::arrive_in(*emulator::Machine::get().now().block, barrier, 0);
}
inline void arrive_expecting(u32 barrier, u32 bytes) {
  emulator::arrive_in(*emulator::Machine::get().now().block, barrier, bytes);
}
/// Until the phase of that parity is over.
inline void wait_for(u32 barrier, u32 phase) {
  auto& machine = emulator::Machine::get();
  const emulator::Barrier& b = machine.now().block->barrier(barrier);
  machine.wait_until([&b, phase] { return b.phase != phase; });
}
inline bool elected() {
  return emulator::Machine::get().now().lane() == 0;
}
