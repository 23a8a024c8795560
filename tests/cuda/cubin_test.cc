#include "cuda/cubin.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "nvrtc_or_skip.h"
#include "rarefy/error.h"

namespace rarefy::cuda {
namespace {

constexpr const char* kTwoKernels = R"(
extern "C" __global__ void uses_shared(float* x) {
  __shared__ float s[128];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = s[127 - threadIdx.x];
}
extern "C" __global__ void uses_stack(float* x, int n) {
  float a[64];
  for (int i = 0; i < 64; ++i) a[i] = x[i * 7];
  for (int i = 0; i < 64; ++i) a[(i * n) & 63] += a[i];
  x[threadIdx.x] = a[n & 63];
}
)";

TEST(Cubin, TellsRegistersSharedMemoryStackAndCodeOfEachKernel) {
  RAREFY_SKIP_WITHOUT_NVRTC();
  for (const Arch& arch : kTestedArchs) {
    if (!can_compile(arch)) continue;
    const Cubin cubin = compile_fresh({.name = "two", .text = kTwoKernels}, arch);
    ASSERT_EQ(cubin.kernels.size(), 2U) << arch.name();
    const KernelFacts& shared = cubin.kernel("uses_shared");
    EXPECT_EQ(shared.shared, 512U) << arch.name();
    EXPECT_EQ(shared.local, 0U) << arch.name();
    EXPECT_GE(shared.registers, 4) << arch.name();
    EXPECT_LE(shared.registers, 32) << arch.name();
    EXPECT_GE(shared.code, 64U) << arch.name();
    EXPECT_EQ(shared.code % 16, 0U) << arch.name();
    const KernelFacts& stack = cubin.kernel("uses_stack");
    EXPECT_EQ(stack.shared, 0U) << arch.name();
    EXPECT_EQ(stack.local, 256U) << arch.name();
    EXPECT_THROW((void)cubin.kernel("uses"), Error);
  }
}

TEST(Cubin, RefusesWhatIsNoCubin) {
  const std::string text =
      "\x7f"
      "ELF but nothing more";
  EXPECT_THROW(read_kernel_facts(std::as_bytes(std::span(text))), Error);
  EXPECT_THROW(read_kernel_facts({}), Error);
}

/// Any cut, and any changed byte, is read to the end or refused: never out of bounds (the sanitizer
/// builds watch).
TEST(Cubin, SurvivesDamage) {
  RAREFY_SKIP_WITHOUT_NVRTC();
  const Arch arch{8, 0};
  const Cubin cubin = compile_fresh({.name = "two", .text = kTwoKernels}, arch);
  for (std::size_t size = 0; size < cubin.image.size(); size += 61) {
    const std::vector<std::byte> cut(cubin.image.begin(),
                                     cubin.image.begin() + static_cast<std::ptrdiff_t>(size));
    try {
      (void)read_kernel_facts(cut);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
    }
  }
  for (std::size_t i = 0; i < cubin.image.size(); ++i) {
    std::vector<std::byte> changed = cubin.image;
    changed[i] ^= std::byte{0xFF};
    try {
      (void)read_kernel_facts(changed);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
    }
  }
}

}  // namespace
}  // namespace rarefy::cuda
