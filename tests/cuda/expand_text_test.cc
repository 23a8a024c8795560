// Device texts that write weights out as dense rows, run thread by thread on the CPU: they neither
// wait for each other nor share memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "cuda/number.cuh"
#include "family_on_device.h"
#include "ops/spmm/cuda/gather/gather_order.h"
#include "ops/spmm/cuda/gather/gather_pack.h"

namespace text {

struct Dim {
  unsigned x = 0, y = 0;
};
thread_local Dim threadIdx, blockIdx, blockDim, gridDim;
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace gather {
#define DELTA 0
#define BACK 0
#include "ops/spmm/cuda/gather/expand.cu"
#undef DELTA
#undef BACK
}  // namespace gather
// Functions with C's linkage need names of their own.
namespace gather7 {
#define DELTA 7
#define BACK 48
#define expand_gather expand_gather7
#include "ops/spmm/cuda/gather/expand.cu"
static_assert(BACK == rarefy::gpu::gather_reach(DELTA).back);
#undef expand_gather
#undef DELTA
#undef BACK
}  // namespace gather7
namespace gather11 {
#define DELTA 11
#define BACK 1023
#define expand_gather expand_gather11
#include "ops/spmm/cuda/gather/expand.cu"
static_assert(BACK == rarefy::gpu::gather_reach(DELTA).back);
#undef expand_gather
}  // namespace gather11

template <class Run>
void launch(Dim grid, unsigned threads, const Run& run) {
  gridDim = grid;
  blockDim = {threads, 1};
  for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) run();
}

}  // namespace text

namespace rarefy::gpu {
namespace {

struct Size {
  std::int64_t rows, cols;
};
constexpr Size kSizes[] = {{150, 803}, {8, 17000}};

/// Calls `check(csr, rows, expected)` for weights of every pattern.
template <class Check>
void for_every_weight(const Check& check) {
  for (const Pattern pattern : kEveryPattern) {
    for (const auto& [rows, cols] : kSizes) {
      const TestWeight weight({rows, cols, pattern, 0.1}, DType::kF16);
      const auto& csr = dynamic_cast<const CsrMatrix&>(*weight.csr);
      std::vector<std::uint16_t> expected(static_cast<std::size_t>(rows * cols));
      csr.read_rows(0, rows, expected.data());
      SCOPED_TRACE(testing::to_string(pattern));
      check(csr, expected);
    }
  }
  // A row that strips use up to the last nonzero, and too few others to fill theirs.
  constexpr std::int64_t kRows = 32, kCols = 1024;
  std::vector<float> values(kRows * kCols);
  for (std::int64_t row = 0; row < kRows; ++row) values[row * kCols + row] = 1;
  std::fill_n(values.begin() + 5 * kCols, kCols, 2.0F);
  const TestWeight weight(values, kRows, kCols, DType::kF16);
  const auto& csr = dynamic_cast<const CsrMatrix&>(*weight.csr);
  std::vector<std::uint16_t> expected(kRows * kCols);
  csr.read_rows(0, kRows, expected.data());
  check(csr, expected);
}

/// Packs every weight in configurations of blocks and turns, and calls `expand(arrays, config, csr,
/// dense)` for every thread.
template <class Expand>
void expect_gather_returns_every_bit(int delta, const Expand& expand) {
  bool some_are_cut = false;
  for_every_weight([&](const CsrMatrix& csr, const std::vector<std::uint16_t>& expected) {
    const auto groups = static_cast<int>((csr.rows() + 15) / 16);
    for (const int split : {1, 2, 4}) {
      for (const int tiles : {1, 3}) {
        for (const unsigned turns : {1U, 3U}) {
          const GatherConfig config{
              .split = split,
              .tiles = tiles,
              .groups = (groups + tiles - 1) / tiles,
              .columns = static_cast<int>(((csr.cols() + split - 1) / split + 7) / 8 * 8),
              .delta = delta,
              .most_strips = 3 * groups};
          const GatherArrays arrays = pack_gather(csr, config, default_pool());
          some_are_cut |= arrays.strips_a_block > config.groups;
          std::vector<std::uint16_t> dense(expected.size());
          text::launch({static_cast<unsigned>(config.blocks()), turns},
                       static_cast<unsigned>(config.warps) * 32,
                       [&] { expand(arrays, config, csr.cols(), dense.data()); });
          EXPECT_EQ(dense, expected) << "split " << split << ", " << tiles << " tiles";
        }
      }
    }
  });
  EXPECT_TRUE(some_are_cut);
}

/// Calls a text's kernel for a thread.
template <class Warp, class Strip, class Kernel>
auto expand_by(const Kernel& kernel) {
  return [kernel](const GatherArrays& arrays, const GatherConfig& config, std::int64_t cols,
                  std::uint16_t* dense) {
    kernel(arrays.stream.data(), reinterpret_cast<const Warp*>(arrays.warps.data()),
           reinterpret_cast<const Strip*>(arrays.strips.data()), arrays.places.data(),
           arrays.groups.data(), arrays.strips_a_block, config.groups, config.split, config.columns,
           dense, cols);
  };
}

TEST(ExpandText, GatherReturnsEveryBit) {
  namespace gather = text::gather;
  expect_gather_returns_every_bit(
      0, expand_by<gather::GatherWarp, gather::GatherStrip>(gather::expand_gather));
}

TEST(ExpandText, GatherWithDeltaColumnsReturnsEveryBit) {
  namespace short_steps = text::gather7;
  namespace long_steps = text::gather11;
  expect_gather_returns_every_bit(
      7, expand_by<short_steps::GatherWarp, short_steps::GatherStrip>(short_steps::expand_gather7));
  expect_gather_returns_every_bit(
      11, expand_by<long_steps::GatherWarp, long_steps::GatherStrip>(long_steps::expand_gather11));
}

}  // namespace
}  // namespace rarefy::gpu
