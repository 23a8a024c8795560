// The scatter family: packing on any machine, every kind of kernel against the reference on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <set>

#include "family_on_device.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/scatter/scatter_pack.h"

namespace rarefy::gpu {
namespace {

ScatterConfig config_for(std::int64_t m, int rows, int split, int per_warp) {
  return {.rows = rows,
          .per_warp = per_warp,
          .split = split,
          .tiles = static_cast<int>((m + rows - 1) / rows)};
}

TEST(PackScatter, ReturnsEveryBit) {
  constexpr std::int64_t kRows = 150, kCols = 803;
  for (const Pattern pattern : kEveryPattern) {
    const TestWeight w({kRows, kCols, pattern, 0.1}, DType::kF16);
    const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
    std::vector<std::uint16_t> expected(static_cast<std::size_t>(kRows * kCols));
    csr.read_rows(0, kRows, expected.data());
    for (const int rows : {8, 48, 224}) {
      for (const int split : {1, 2, 4}) {
        for (const int per_warp : {2, 8}) {
          const ScatterConfig config = config_for(kRows, rows, split, per_warp);
          const ScatterArrays arrays = pack_scatter(csr, config, default_pool());
          EXPECT_EQ(arrays.nonzeros, csr.entries());
          EXPECT_LE(arrays.most_rounds, config.most_rounds());
          EXPECT_EQ(unpack_scatter(arrays, config, kRows, kCols), expected)
              << testing::to_string(pattern) << " " << config.name();
        }
      }
    }
  }
}

TEST(PackScatter, PadsAndMeetsLittle) {
  struct Expected {
    double density, bytes, wavefronts;
  };
  for (const auto& [density, bytes, wavefronts] :
       {Expected{0.2, 4.06, 1.3}, {0.1, 4.1, 1.42}, {0.05, 4.2, 1.6}}) {
    const TestWeight w({224, 2048, Pattern::kUniform, density}, DType::kF16);
    const ScatterArrays arrays = pack_scatter(dynamic_cast<const CsrMatrix&>(*w.csr),
                                              config_for(224, 224, 1, 12), default_pool());
    EXPECT_LT(static_cast<double>(arrays.stream.size() * 4),
              bytes * static_cast<double>(arrays.nonzeros))
        << density;
    std::int64_t waves = 0;
    for (std::size_t round = 0; round < arrays.stream.size() / 32; ++round) {
      std::array<int, 32> banks = {};
      for (std::size_t i = 0; i < 32; ++i) ++banks[arrays.stream[round * 32 + i] / 4 >> 16 & 31];
      waves += *std::max_element(banks.begin(), banks.end());
    }
    EXPECT_LT(static_cast<double>(waves),
              wavefronts * static_cast<double>(arrays.stream.size()) / 32)
        << density;
  }
}

TEST(PackScatter, GivesTheSameBytesForAnyThreads) {
  const TestWeight w({300, 700, Pattern::kRowSkew, 0.1}, DType::kBF16);
  const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
  const ScatterConfig config = config_for(300, 64, 2, 4);
  ThreadPool one(1), three(3);
  const ScatterArrays a = pack_scatter(csr, config, one);
  const ScatterArrays b = pack_scatter(csr, config, three);
  EXPECT_EQ(a.stream, b.stream);
  EXPECT_EQ(a.stages, b.stages);
  EXPECT_EQ(a.groups, b.groups);
}

TEST(PackScatter, LeavesOutEmptyColumns) {
  // Every other block of 64 columns is empty.
  constexpr std::int64_t kRows = 64, kCols = 1024;
  std::vector<std::uint16_t> values(static_cast<std::size_t>(kRows * kCols));
  for (std::int64_t r = 0; r < kRows; ++r)
    for (std::int64_t c = 0; c < kCols; ++c)
      values[static_cast<std::size_t>(r * kCols + c)] = c / 64 % 2 == 0 && c % 7 == 0 ? 0x3C00 : 0;
  const DenseSource source(ConstMatrixRef{values.data(), DType::kF16, kRows, kCols, kCols});
  const MatrixPtr csr = pack(source, format::kCsr32);
  const ScatterConfig config = config_for(kRows, 64, 2, 8);
  const ScatterArrays arrays =
      pack_scatter(dynamic_cast<const CsrMatrix&>(*csr), config, default_pool());
  EXPECT_EQ(arrays.stages.size(), 8U);
  EXPECT_EQ(arrays.most_stages, 4);
  EXPECT_EQ(unpack_scatter(arrays, config, kRows, kCols), values);
}

TEST(ScatterFamily, OffersConfigurationsThatHoldAllRows) {
  for (const std::int64_t m : {1, 100, 4096, 14336, 28672, 128256}) {
    for (const std::int64_t n : {1, 16, 33, 128}) {
      for (const double density : {0.5, 0.1, 0.01}) {
        const Problem problem{.m = m, .k = 4096, .n = n};
        const std::vector<ScatterConfig> found =
            scatter_configs(problem, density, cuda::h100_facts());
        EXPECT_FALSE(found.empty()) << m << " " << n;
        std::set<std::string> names;
        for (const ScatterConfig& c : found) {
          EXPECT_GE(std::int64_t{c.tiles} * c.rows, m) << c.name();
          EXPECT_LT((std::int64_t{c.tiles} - 1) * c.rows, m) << c.name();
          EXPECT_LE(c.rows, ScatterConfig::kMostRows) << c.name();
          EXPECT_EQ(c.rows % 8, 0) << c.name();
          EXPECT_TRUE(names.insert(c.name()).second) << c.name();
          const double us = estimate_us(c, problem, density, cuda::h100_facts());
          EXPECT_GT(us, 1) << c.name();
          EXPECT_LT(us, 1e5) << c.name();
        }
      }
    }
  }
}

TEST(ScatterFamily, SaysWhatItDoesNotTake) {
  Problem problem{.m = 64, .k = 64, .n = 1};
  EXPECT_TRUE(scatter_family().supports(problem, cuda::h100_facts()));
  problem.weight = problem.activations = DType::kF32;
  EXPECT_NE(scatter_family().supports(problem, cuda::h100_facts()).reason.find("f32"),
            std::string::npos);
  problem.weight = problem.activations = DType::kF16;
  problem.k = 1 << 23;
  EXPECT_NE(scatter_family().supports(problem, cuda::h100_facts()).reason.find("4194304 columns"),
            std::string::npos);
  problem.k = 64;
  problem.layout = Layout::kFeatureMajor;
  EXPECT_FALSE(scatter_family().supports(problem, cuda::h100_facts()));
  problem.layout = Layout::kTokenMajor;
  cuda::DeviceFacts blackwell = cuda::h100_facts();
  blackwell.major = 10;
  EXPECT_NE(scatter_family().supports(problem, blackwell).reason.find("wgmma"), std::string::npos);
}

class ScatterOnDevice : public FamilyOnDevice {
 protected:
  ScatterOnDevice()
      : FamilyOnDevice(scatter_family(), {.major = 9, .one_dtype = true, .may_refuse = true}) {}
};

TEST_F(ScatterOnDevice, EveryPattern) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const Pattern pattern : kEveryPattern) {
      const TestWeight weight({131, 1030, pattern, 0.1}, dtype);
      check(weight, {.n = 3, .output = dtype}, 3);
    }
  }
}

TEST_F(ScatterOnDevice, EveryNumberOfTokens) {
  const TestWeight weight({300, 1000, Pattern::kUniform, 0.1}, DType::kF16);
  for (const std::int64_t n : {1, 2, 5, 8, 9, 16, 17, 33, 64, 100})
    check(weight, {.n = n}, n > 16 ? 3 : 2);
}

TEST_F(ScatterOnDevice, ColumnsThatAreNotAligned) {
  for (const std::int64_t cols : {1, 7, 15, 33, 517}) {
    const TestWeight weight({70, cols, Pattern::kUniform, 0.3}, DType::kBF16);
    check(weight, {.n = 4, .output = DType::kF32}, 2);
    check(weight, {.n = 20, .output = DType::kF32}, 3);
  }
}

TEST_F(ScatterOnDevice, TilesOfManyRows) {
  const TestWeight weight({14336, 512, Pattern::kRowSkew, 0.03}, DType::kF16);
  check(weight, {.n = 8});
  check(weight, {.n = 16});
}

TEST_F(ScatterOnDevice, Epilogues) {
  const TestWeight weight({90, 600, Pattern::kRowSkew, 0.2}, DType::kBF16);
  for (const Epilogue& e : kSomeEpilogues) {
    check(weight,
          {.n = 4,
           .output = DType::kF32,
           .activation = e.activation,
           .bias = e.bias,
           .residual = e.residual},
          3);
  }
}

TEST_F(ScatterOnDevice, FollowsTheKernelAheadInTheStream) {
  const TestWeight weight({512, 512, Pattern::kUniform, 0.1}, DType::kF16);
  const Problem problem{.m = 512, .k = 512, .n = 8};
  expect_follows(candidates_of(weight, problem), weight, problem);
}

TEST_F(ScatterOnDevice, NotFiniteActivationsReachTheRowsThatHoldThem) {
  const TestWeight weight({64, 128, Pattern::kFull, 1.0}, DType::kF16);
  for (const float special :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    check(weight, {.n = 1, .output = DType::kF32}, 3, special);
}

}  // namespace
}  // namespace rarefy::gpu
