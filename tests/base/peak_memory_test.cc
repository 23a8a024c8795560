#include "base/peak_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

namespace rarefy {
namespace {

/// Makes `bytes` resident for a moment, past every allocator: those keep what is freed.
void touch(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 1, bytes);
  munmap(memory, bytes);
}

TEST(PeakMemory, CountsTheMostSinceTheReset) {
  // Well above what the test program has before.
  constexpr std::size_t kLarge = std::size_t{256} << 20;
  constexpr std::size_t kSmall = std::size_t{64} << 20;
  if (!peak_resident_bytes()) GTEST_SKIP() << "this system does not tell";
  touch(kLarge);
  EXPECT_GE(peak_resident_bytes().value(), kLarge);
  if (!reset_peak_resident()) GTEST_SKIP() << "this system does not reset";
  EXPECT_LT(peak_resident_bytes().value(), kLarge);
  touch(kSmall);
  EXPECT_GE(peak_resident_bytes().value(), kSmall);
  EXPECT_LT(peak_resident_bytes().value(), kLarge);
}

}  // namespace
}  // namespace rarefy
