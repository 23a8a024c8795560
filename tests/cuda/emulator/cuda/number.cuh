#pragma once

#include <cstdint>

#include "emulator/machine.h"

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

struct f16 {
  u16 bits;
};
struct bf16 {
  u16 bits;
};

inline float to_float(float x) {
  return x;
}
inline float to_float(f16 x) {
  return emulator::from_f16(x.bits);
}
inline float to_float(bf16 x) {
  return emulator::from_bf16(x.bits);
}
template <class T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline f16 from_float<f16>(float x) {
  return {emulator::to_f16(x)};
}
template <>
inline bf16 from_float<bf16>(float x) {
  return {emulator::to_bf16(x)};
}
