#pragma once

#include "cuda/shared_barrier.cuh"

inline u32 cluster_rank() {
  return emulator::Machine::get().now().block->rank;
}
inline void cluster_sync() {
  auto& machine = emulator::Machine::get();
  machine.meet(machine.cluster_meeting(), machine.launch().threads * machine.launch().cluster);
}
inline void arrive_at(u32 barrier, u32 rank) {
  emulator::arrive_in(emulator::Machine::get().block(rank), barrier, 0);
}
inline void wait_for_cluster(u32 barrier, u32 phase) {
  wait_for(barrier, phase);
}
