// The device text that writes scatter's weights out as dense rows, on the emulator.
#include <gtest/gtest.h>

#include <vector>

#include "emulator/prelude.h"
//
#include "family_on_device.h"
#include "ops/spmm/cuda/scatter/expand.cu"
#include "ops/spmm/cuda/scatter/scatter_pack.h"

namespace rarefy::gpu {
namespace {

void expect_every_bit(const ScatterConfig& config, const CsrMatrix& csr, unsigned turns) {
  std::vector<std::uint16_t> expected(static_cast<std::size_t>(csr.rows() * csr.cols()));
  csr.read_rows(0, csr.rows(), expected.data());
  const ScatterArrays arrays = pack_scatter(csr, config, default_pool());
  std::vector<std::uint16_t> dense(expected.size(), 0xFFFF);
  emulator::Machine::get().run(
      {.grid = static_cast<unsigned>(config.tiles) * turns,
       .threads = kThreads,
       .shared_bytes = static_cast<std::size_t>(config.rows) * 128 + 1024},
      [&] {
        expand_scatter(
            arrays.stream.data(), reinterpret_cast<const ::ScatterBlock*>(arrays.blocks.data()),
            arrays.stages.data(), arrays.groups.data(), static_cast<unsigned>(config.rows),
            static_cast<unsigned>(config.split), turns, dense.data(), csr.rows(), csr.cols());
      });
  EXPECT_EQ(dense, expected) << config.name() << ", " << turns << " turns";
}

TEST(ScatterText, ReturnsEveryBit) {
  for (const Pattern pattern : kEveryPattern) {
    SCOPED_TRACE(testing::to_string(pattern));
    const TestWeight weight({150, 403, pattern, 0.1}, DType::kF16);
    const auto& csr = dynamic_cast<const CsrMatrix&>(*weight.csr);
    const Problem problem{.m = csr.rows(), .k = csr.cols(), .n = 64};
    const std::vector<ScatterConfig> configs = scatter_configs(problem, 0.1, cuda::h100_facts());
    ASSERT_FALSE(configs.empty());
    expect_every_bit(configs.front(), csr, 1);
    expect_every_bit(configs.back(), csr, 3);
  }
}

TEST(ScatterText, StagesOfTheSameColumnsAreOneTile) {
  // Full rows, stages of at most 256 nonzeros, and whole pieces of eight columns.
  const TestWeight weight({40, 192, Pattern::kFull, 1.0}, DType::kBF16);
  const ScatterConfig config{.rows = 24, .per_warp = 2, .split = 2, .tiles = 2};
  expect_every_bit(config, dynamic_cast<const CsrMatrix&>(*weight.csr), 2);
}

}  // namespace
}  // namespace rarefy::gpu
