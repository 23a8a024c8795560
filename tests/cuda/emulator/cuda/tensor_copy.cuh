#pragma once

#include "cuda/number.cuh"

/// Words: address, rows, columns, stride in bytes, rows and columns of a box.
struct alignas(128) TensorMap {
  u64 words[16];
};

inline void copy_box(u32 to, const TensorMap& map, int x, int y, u32 barrier) {
  auto& machine = emulator::Machine::get();
  if (to % 128 != 0) throw std::runtime_error("emulated GPU: a box at no multiple of 128 bytes");
  emulator::Block& block = *machine.now().block;
  machine.later([&block, to, map, x, y, barrier] {
    const auto rows = static_cast<i64>(map.words[1]), columns = static_cast<i64>(map.words[2]);
    const auto box_rows = static_cast<u32>(map.words[4]),
               box_columns = static_cast<u32>(map.words[5]);
    for (u32 r = 0; r < box_rows; ++r)
      for (u32 c = 0; c < box_columns; ++c) {
        u16 value = 0;  // Beyond the matrix.
        if (y + r < rows && x + c < columns)
          std::memcpy(&value,
                      reinterpret_cast<const u8*>(map.words[0]) +
                          static_cast<std::size_t>(y + r) * map.words[3] +
                          static_cast<std::size_t>(x + c) * 2,
                      2);
        const u32 at = emulator::swizzle(to + (r * box_columns + c) * 2, box_columns * 2);
        std::memcpy(block.at(at, 2), &value, 2);
      }
    emulator::Barrier& b = block.barrier(barrier);
    b.bytes -= i64{box_rows} * box_columns * 2;
    b.check_complete();
  });
}
