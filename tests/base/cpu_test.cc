#include "rarefy/cpu.h"

#include <gtest/gtest.h>

#include "rarefy/error.h"

namespace rarefy {
namespace {

TEST(Cpu, LevelsContainTheOnesBelow) {
  const CpuInfo& cpu = cpu_info();
  EXPECT_GE(cpu.cores, 1);
  EXPECT_FALSE(cpu.brand.empty());
  EXPECT_LE(cpu.amx, cpu.avx512);
  EXPECT_LE(cpu.avx512, cpu.avx2);
}

TEST(Cpu, NamesRoundTrip) {
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAmx})
    EXPECT_EQ(parse_isa(to_string(isa)), isa);
  EXPECT_FALSE(parse_isa("sse9"));
}

TEST(Cpu, AForcedLevelHoldsUntilReleased) {
  const Isa before = active_isa();
  force_isa(Isa::kPortable);
  EXPECT_EQ(active_isa(), Isa::kPortable);
  force_isa(std::nullopt);
  EXPECT_EQ(active_isa(), before);
  if (!cpu_info().amx) {
    EXPECT_THROW(force_isa(Isa::kAmx), Error);
  }
}

}  // namespace
}  // namespace rarefy
