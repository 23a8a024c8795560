// Exponentials of scores, which are kept in units of log 2.
#pragma once

constexpr float kLog2E = 1.4426950408889634F;

__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
