#pragma once

#include "cuda/number.cuh"

inline void begin_products() {}
inline void end_products() {
  int nothing = 0;
  auto& machine = emulator::Machine::get();
  emulator::Warp& warp = machine.now().warp();
  machine.together(nothing, [&warp](auto&) {
    warp.groups.push_back(std::move(warp.open));
    warp.open.clear();
  });
}
template <int PENDING>
void wait_for_products() {
  int nothing = 0;
  auto& machine = emulator::Machine::get();
  emulator::Warp& warp = machine.now().warp();
  const emulator::Block& block = *machine.now().block;
  const u32 index = machine.now().index / 32;
  machine.together(nothing, [&](auto&) {
    for (; warp.groups.size() > PENDING; warp.groups.pop_front())
      for (const emulator::WarpProduct& product : warp.groups.front())
        emulator::multiply_now(block, index, product);
  });
}
template <int COUNT>
void give_registers() {
  static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256);
}
template <int COUNT>
void take_registers() {
  static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256);
}
inline void sync_threads(u32 barrier, u32 threads) {
  auto& machine = emulator::Machine::get();
  machine.meet(machine.now().block->meetings[barrier], threads);
}

/// What warpgroup_text.h writes out; the kernel's constants say what is transposed.
template <class T, bool TRANSPOSED_A, bool TRANSPOSED_B, int SUMS>
void multiply_warpgroup(float (&sums)[SUMS], u64 a, u64 b) {
  float* mine = sums;
  auto& machine = emulator::Machine::get();
  emulator::Warp& warp = machine.now().warp();
  machine.together(mine, [&](auto& all) {
    emulator::WarpProduct product{.sums = {},
                                  .a = a,
                                  .b = b,
                                  .columns = 2 * SUMS,
                                  .transposed_a = TRANSPOSED_A,
                                  .transposed_b = TRANSPOSED_B};
    for (u32 i = 0; i < 32; ++i) product.sums[i] = *all[i];
    product.to_float = [](u16 bits) { return to_float(T{bits}); };
    warp.open.push_back(product);
  });
}
template <class T, bool TRANSPOSED_B, int SUMS>
void multiply_warpgroup(float (&sums)[SUMS], const u32 (&a)[4], u64 b) {
  struct Mine {
    float* sums;
    const u32* a;
  } mine{sums, a};
  auto& machine = emulator::Machine::get();
  emulator::Warp& warp = machine.now().warp();
  machine.together(mine, [&](auto& all) {
    emulator::WarpProduct product{
        .sums = {}, .b = b, .columns = 2 * SUMS, .transposed_b = TRANSPOSED_B};
    for (u32 i = 0; i < 32; ++i) {
      product.sums[i] = all[i]->sums;
      product.registers[i] = all[i]->a;
    }
    product.to_float = [](u16 bits) { return to_float(T{bits}); };
    warp.open.push_back(product);
  });
}
