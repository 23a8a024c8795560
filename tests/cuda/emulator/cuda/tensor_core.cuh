#pragma once

#include "cuda/number.cuh"

/// mma.m16n8k16: a's rows lane / 4 (+ 8), columns lane % 4 · 2 (+ 8); b's column lane / 4.
template <class T>
void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, T) {
  struct Mine {
    float* c;
    const u32* a;
    u32 b[2];
  } mine{c, a, {b0, b1}};
  emulator::Machine::get().together(mine, [](auto& all) {
    const auto half = [](u32 word, u32 which) {
      return to_float(T{static_cast<u16>(word >> (16 * which))});
    };
    for (u32 row = 0; row < 16; ++row)
      for (u32 column = 0; column < 8; ++column) {
        float& sum = all[row % 8 * 4 + column / 2]->c[row / 8 * 2 + column % 2];
        for (u32 k = 0; k < 16; ++k) {
          const float left = half(all[row % 8 * 4 + k % 8 / 2]->a[row / 8 + k / 8 * 2], k % 2);
          sum += left * half(all[column * 4 + k % 8 / 2]->b[k / 8], k % 2);
        }
      }
  });
}

template <bool TURNED>
void load_matrices(u32 (&to)[4], u32 row) {
  struct Mine {
    u32* to;
    u32 row;
  } mine{to, row};
  auto& machine = emulator::Machine::get();
  emulator::Block& block = *machine.now().block;
  machine.together(mine, [&block](auto& all) {
    for (u32 m = 0; m < 4; ++m)
      for (u32 lane = 0; lane < 32; ++lane) {
        u16 pair[2];
        for (u32 i = 0; i < 2; ++i) {
          const u32 r = TURNED ? lane % 4 * 2 + i : lane / 4;
          const u32 c = TURNED ? lane / 4 : lane % 4 * 2 + i;
          std::memcpy(&pair[i], block.at(all[m * 8 + r]->row, 16) + c * 2, 2);
        }
        all[lane]->to[m] = pair[0] | static_cast<u32>(pair[1]) << 16;
      }
  });
}

inline void copy_16(u32 to, const void* from, bool there) {
  emulator::Machine::get().now().open_copies.push_back({to, from, there});
}
inline void commit_copies() {
  emulator::Thread& thread = emulator::Machine::get().now();
  thread.copies.push_back(std::move(thread.open_copies));
  thread.open_copies.clear();
}
template <int PENDING>
void wait_for_copies() {
  emulator::Thread& thread = emulator::Machine::get().now();
  for (; thread.copies.size() > PENDING; thread.copies.pop_front())
    for (const emulator::Copy16& copy : thread.copies.front()) {
      u8* const to = thread.block->at(copy.to, 16);
      if (copy.there) {
        std::memcpy(to, copy.from, 16);
      } else {
        std::memset(to, 0, 16);
      }
    }
}
