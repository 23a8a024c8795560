#include "planner/estimate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "fakes.h"
#include "planner/ceilings.h"
#include "planner/read_streams.h"
#include "rarefy/cpu.h"

namespace rarefy::planning::testing {
namespace {

TEST(Floors, FollowFromTheCeilings) {
  const MachineCeilings ceilings{40, 200, 2.5};
  const Roofline memory = floors_of({.bytes = 40e6, .cycles = 1e6}, ceilings, 2, false);
  EXPECT_DOUBLE_EQ(memory.memory_us, 1000);
  EXPECT_DOUBLE_EQ(memory.compute_us, 200);
  EXPECT_DOUBLE_EQ(memory.floor_us(), 1000);
  const Roofline cache = floors_of({.bytes = 40e6, .cycles = 1e6}, ceilings, 2, true);
  EXPECT_DOUBLE_EQ(cache.memory_us, 200);
}

TEST(Estimate, IsNoLessThanTheFloorAndOverlaps) {
  const Roofline floors{.memory_us = 100, .compute_us = 60};
  EXPECT_GT(estimate_us(floors), 100);
  EXPECT_LT(estimate_us(floors), 160);
}

TEST(Estimate, OrdersFormatsBySizeWhereMemoryDecides) {
  // 4096×4096 bf16 at 70 %: what the planner prunes by must know that less is faster.
  PatternStats pattern;
  pattern.rows = pattern.cols = 4096;
  pattern.nnz = 4096 * 4096 * 3 / 10;
  const std::size_t dense = estimate_packed_bytes(format::kDense, pattern, DType::kBF16);
  const std::size_t bitmap = estimate_packed_bytes(format::kBitmap, pattern, DType::kBF16);
  const std::size_t csr = estimate_packed_bytes(format::kCsr32, pattern, DType::kBF16);
  EXPECT_EQ(dense, 2U * 4096 * 4096);
  EXPECT_LT(bitmap, dense / 2);
  EXPECT_LT(bitmap, csr);
}

TEST(StaysInCache, OnlyWhatThePrivateCachesHold) {
  EXPECT_TRUE(stays_in_cache(0));
  EXPECT_FALSE(stays_in_cache(std::size_t{1} << 40));
}

TEST(Roofline, UsesTheKernelsOwnCount) {
  const FakeKernel kernel("fake", format::kDense, microseconds(7));
  const Roofline floors =
      roofline(kernel, format::kDense, {}, {.m = 1, .k = 1, .n = 1, .threads = 1}, kCeilings);
  EXPECT_DOUBLE_EQ(floors.compute_us, 7);
}

TEST(AllKernels, CostsAreSane) {
  PatternStats pattern;
  pattern.rows = pattern.cols = 1024;
  pattern.nnz = 1024 * 1024 / 2;
  for (const SpmmKernel* kernel : spmm_kernels()) {
    for (const FormatSpec& format : search_formats({}, DType::kBF16)) {
      // A pattern that this density cannot have.
      if (format.format == Format::kNm && 2 * format.n < format.m) continue;
      double before = 0;
      for (std::int64_t n : {1, 16, 256}) {
        const SpmmProblem problem{.m = 1024, .k = 1024, .n = n, .threads = 2};
        if (!kernel->supports(format, problem)) continue;
        const SpmmCost cost = kernel->cost(format, pattern, problem);
        // At least every nonzero is read, and more columns never cost less.
        EXPECT_GE(cost.bytes, static_cast<double>(pattern.nnz) * 2)
            << kernel->name() << " on " << format.name();
        EXPECT_GT(cost.cycles, 0) << kernel->name();
        EXPECT_GE(cost.cycles, before) << kernel->name() << " at " << n;
        before = cost.cycles;
      }
    }
  }
}

TEST(ReadStreams, EveryWidthSeesEveryWord) {
  Buffer data(1 << 16);
  std::mt19937_64 random(3);
  std::uint64_t expected = 0;
  for (std::uint64_t& word : data.span<std::uint64_t>()) expected ^= word = random();
  EXPECT_EQ(read_streams_portable(data.data(), data.size()), expected);
  if (cpu_info().avx2) {
    EXPECT_EQ(read_streams_avx2(data.data(), data.size()), expected);
  }
  if (cpu_info().avx512) {
    EXPECT_EQ(read_streams_avx512(data.data(), data.size()), expected);
  }
  EXPECT_EQ(read_streams_portable(data.data(), 0), 0U);
}

TEST(EvictionBytes, AreBounded) {
  EXPECT_GE(eviction_bytes(), std::size_t{1} << 20);
  EXPECT_LE(eviction_bytes(), std::size_t{1} << 30);
}

TEST(Ceilings, KeepTheBestEverSeen) {
  const KnownCeilings known{{30, 200, 3.5}, 1000, 1};
  const KnownCeilings both = best_of_both(known, {40, 150, 3.4}, 2000);
  EXPECT_EQ(both.best.dram_gb_per_s, 40);
  EXPECT_EQ(both.best.cache_gb_per_s, 200);
  EXPECT_EQ(both.best.ghz, 3.5);
  EXPECT_EQ(both.measured_at, 2000);
  EXPECT_EQ(both.times, 2);
}

TEST(Ceilings, AreMeasuredAFewTimesAWhileApart) {
  EXPECT_FALSE(is_due({{30, 200, 3.5}, 1000, 1}, 1100));
  EXPECT_TRUE(is_due({{30, 200, 3.5}, 1000, 1}, 5000));
  EXPECT_FALSE(is_due({{30, 200, 3.5}, 1000, 5}, 5000));
  EXPECT_FALSE(is_due({{30, 200, 3.5}}, 5000));  // Given, not measured.
}

TEST(MachineKey, TellsThreadsAndInstructionSetsApart) {
  EXPECT_EQ(machine_key(2), machine_key(2));
  EXPECT_NE(machine_key(1), machine_key(2));
  const Json best = machine_key(1);
  force_isa(Isa::kPortable);
  const Json portable = machine_key(1);
  force_isa(std::nullopt);
  if (active_isa() != Isa::kPortable) {
    EXPECT_NE(best, portable);
  }
}

}  // namespace
}  // namespace rarefy::planning::testing
