// The decode family: packing on any machine, every kind of kernel against the reference on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

#include "family_on_device.h"
#include "ops/spmm/cuda/decode/lane_pack.h"
#include "ops/spmm/cuda/families.h"

namespace rarefy::gpu {
namespace {

/// How many groups a configuration of these strips needs for so many rows.
LaneConfig config_for(std::int64_t rows, LaneConfig config) {
  const std::int64_t strips = (rows + 15) / 16;
  const std::int64_t of_tile = std::int64_t{config.strips} * config.row_warps;
  config.row_tiles = static_cast<int>((strips + of_tile - 1) / of_tile);
  return config;
}

const LaneConfig kConfigs[] = {
    {.strips = 1, .k_warps = 1, .blocks = 2},
    {.strips = 2, .row_warps = 2, .k_warps = 3, .blocks = 4},
    {.strips = 3, .k_warps = 2, .blocks = 2, .split = 2},
    {.strips = 7, .k_warps = 2, .blocks = 2},
    {.strips = 8, .row_warps = 2, .k_warps = 1, .blocks = 4, .split = 2},
    {.strips = 1, .token_tiles = 8, .row_warps = 4, .blocks = 4, .wide = true, .swap_blocks = 4},
    {.strips = 3,
     .token_tiles = 4,
     .row_warps = 4,
     .k_warps = 2,
     .blocks = 4,
     .split = 2,
     .wide = true,
     .swap_blocks = 2},
    {.strips = 7, .token_tiles = 2, .row_warps = 8, .k_warps = 1, .blocks = 2, .wide = true},
};

TEST(PackLane, ReturnsEveryBitThroughTheRings) {
  for (const Pattern pattern :
       {Pattern::kUniform, Pattern::kEmptyRows, Pattern::kOneFullRow, Pattern::kRowSkew,
        Pattern::kColumnRuns, Pattern::kZero, Pattern::kNegativeZeros}) {
    const TestWeight w({150, 803, pattern, 0.4}, DType::kF16);
    const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
    for (const LaneConfig& of : kConfigs) {
      const LaneConfig config = config_for(150, of);
      const LaneArrays arrays = pack_lane(csr, config, default_pool());
      EXPECT_EQ(arrays.nonzeros, csr.entries());
      // -0.0 is a zero that the CSR does not store.
      std::vector<std::uint16_t> expected(static_cast<std::size_t>(150 * 803));
      csr.read_rows(0, 150, expected.data());
      EXPECT_EQ(unpack_lane(arrays, config, 150, 803), expected)
          << testing::to_string(pattern) << " " << config.name();
    }
  }
}

TEST(PackLane, PadsLittle) {
  const std::int64_t rows = 7 * 16, cols = 4096;
  const LaneConfig config{.strips = 7, .k_warps = 8, .blocks = 2};
  for (const double density : {0.5, 0.3, 0.2}) {
    const TestWeight w({rows, cols, Pattern::kUniform, density}, DType::kF16);
    const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
    const LaneArrays arrays = pack_lane(csr, config, default_pool());
    const double needed =
        static_cast<double>(rows * cols) / 8 + 2.0 * static_cast<double>(csr.entries());
    // Without swapping half-columns it would be 7 % at density 0.5 and 13 % at 0.2.
    EXPECT_LT(static_cast<double>(arrays.stream.size()), needed * 1.06) << density;
    EXPECT_LE(arrays.ring_rows, config.expected_ring_rows(density) + 16) << density;
  }
}

TEST(PackLane, GivesTheSameBytesForAnyThreads) {
  const TestWeight w({300, 700, Pattern::kRowSkew, 0.3}, DType::kBF16);
  const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
  const LaneConfig config = config_for(300, kConfigs[1]);
  ThreadPool one(1), three(3);
  const LaneArrays a = pack_lane(csr, config, one);
  const LaneArrays b = pack_lane(csr, config, three);
  EXPECT_EQ(a.stream, b.stream);
  EXPECT_EQ(a.strip_rows, b.strip_rows);
  EXPECT_EQ(a.ring_rows, b.ring_rows);
}

TEST(PackLane, DealsSkewedRowsEvenly) {
  // A quarter of the rows is dense, the rest almost empty: contiguous shares would differ fourfold.
  const std::int64_t rows = 64 * 16, cols = 256;
  std::vector<std::uint16_t> values(static_cast<std::size_t>(rows * cols));
  for (std::int64_t r = 0; r < rows / 4; ++r)
    for (std::int64_t c = 0; c < cols; ++c)
      values[static_cast<std::size_t>(r * cols + c)] = c % 2 == 0 ? 0x3C00 : 0;
  const DenseSource source(ConstMatrixRef{values.data(), DType::kF16, rows, cols, cols});
  const MatrixPtr csr = pack(source, format::kCsr32);
  const LaneConfig config{.strips = 4, .k_warps = 1, .blocks = 2, .row_tiles = 16};
  const LaneArrays arrays = pack_lane(dynamic_cast<const CsrMatrix&>(*csr), config, default_pool());
  std::vector<std::int64_t> entries(static_cast<std::size_t>(config.groups()));
  for (std::size_t i = 0; i < arrays.strip_rows.size(); ++i) {
    const std::int64_t row = arrays.strip_rows[i];
    const auto* offsets = dynamic_cast<const CsrMatrix&>(*csr).row_offsets();
    entries[i / static_cast<std::size_t>(config.strips)] += offsets[row + 16] - offsets[row];
  }
  EXPECT_EQ(*std::max_element(entries.begin(), entries.end()), rows / 4 * cols / 2 / 16);
  EXPECT_EQ(unpack_lane(arrays, config, rows, cols), values);
}

TEST(PackLane, RefusesPatternsThatOutgrowTheRing) {
  // Dense, and long stages: two of them are 512 rows.
  const std::int64_t rows = 8 * 16, cols = 512;
  std::vector<std::uint16_t> values(static_cast<std::size_t>(rows * cols), 0x3C00);
  const DenseSource source(ConstMatrixRef{values.data(), DType::kF16, rows, cols, cols});
  const MatrixPtr csr = pack(source, format::kCsr32);
  const LaneConfig config{.strips = 8, .k_warps = 1, .blocks = 8};
  try {
    (void)pack_lane(dynamic_cast<const CsrMatrix&>(*csr), config, default_pool());
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("ring"), std::string::npos) << error.what();
  }
}

TEST(DecodeFamily, OffersConfigurationsThatHoldAllRows) {
  for (const std::int64_t m : {1, 100, 4096, 14336, 128256}) {
    for (const std::int64_t n : {1, 16, 33, 128}) {
      for (const double density : {0.5, 0.1}) {
        const Problem problem{.m = m, .k = 4096, .n = n};
        std::vector<LaneConfig> found = lane_configs(problem, density, cuda::h100_facts());
        EXPECT_FALSE(found.empty()) << m << " " << n;
        const std::vector<LaneConfig> wide = wide_configs(problem, density, cuda::h100_facts());
        EXPECT_FALSE(wide.empty()) << m << " " << n;
        found.insert(found.end(), wide.begin(), wide.end());
        std::set<std::string> names;
        for (const LaneConfig& c : found) {
          EXPECT_GE(std::int64_t{c.groups()} * c.strips * 16, m) << c.name();
          EXPECT_LT((std::int64_t{c.row_tiles} - 1) * c.row_warps * 16, m) << c.name();
          EXPECT_LE(c.shared_bytes(c.expected_ring_rows(density)), 232448) << c.name();
          EXPECT_TRUE(names.insert(c.name()).second) << c.name();
          const double us = estimate_us(c, problem, density, cuda::h100_facts());
          EXPECT_GT(us, 1) << c.name();
          EXPECT_LT(us, 1e5) << c.name();
        }
      }
    }
  }
}

TEST(DecodeFamily, SaysWhatItDoesNotTake) {
  Problem problem{.m = 64, .k = 64, .n = 1};
  EXPECT_TRUE(decode_family().supports(problem, cuda::h100_facts()));
  problem.weight = problem.activations = DType::kF32;
  EXPECT_NE(decode_family().supports(problem, cuda::h100_facts()).reason.find("f32"),
            std::string::npos);
  problem.weight = problem.activations = DType::kF16;
  problem.layout = Layout::kFeatureMajor;
  EXPECT_FALSE(decode_family().supports(problem, cuda::h100_facts()));
  problem.layout = Layout::kTokenMajor;
  cuda::DeviceFacts ampere = cuda::h100_facts();
  ampere.major = 8;
  EXPECT_NE(decode_family().supports(problem, ampere).reason.find("9.0"), std::string::npos);
}

class DecodeOnDevice : public FamilyOnDevice {
 protected:
  DecodeOnDevice()
      : FamilyOnDevice(decode_family(), {.major = 9, .one_dtype = true, .may_refuse = true}) {}
};

TEST_F(DecodeOnDevice, EveryPattern) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const Pattern pattern : kEveryPattern) {
      const TestWeight weight({131, 520, pattern, 0.4}, dtype);
      check_about(weight, {.n = 3, .output = dtype}, 4);
      check_about(weight, {.n = 20, .output = dtype}, 4);
    }
  }
}

TEST_F(DecodeOnDevice, EveryNumberOfTokens) {
  const TestWeight weight({300, 1000, Pattern::kUniform, 0.3}, DType::kF16);
  for (const std::int64_t n : {1, 2, 5, 8, 9, 16, 17, 33, 64, 100, 128, 300})
    check_about(weight, {.n = n}, 6);
}

TEST_F(DecodeOnDevice, ColumnsThatAreNotAligned) {
  for (const std::int64_t cols : {1, 7, 15, 33, 517}) {
    const TestWeight weight({70, cols, Pattern::kUniform, 0.5}, DType::kBF16);
    check_about(weight, {.n = 4, .output = DType::kF32}, 4);
    check_about(weight, {.n = 20, .output = DType::kF32}, 6);
  }
}

TEST_F(DecodeOnDevice, EveryConfigurationOfOneProblem) {
  const TestWeight weight({4096, 1024, Pattern::kUniform, 0.3}, DType::kF16);
  constexpr std::size_t kAll = 1000;
  for (const std::int64_t n : {8, 16, 64}) check_about(weight, {.n = n}, kAll);
}

TEST_F(DecodeOnDevice, Epilogues) {
  const TestWeight weight({90, 300, Pattern::kRowSkew, 0.4}, DType::kBF16);
  for (const Epilogue& e : kSomeEpilogues) {
    check_about(weight,
                {.n = 4,
                 .output = DType::kF32,
                 .activation = e.activation,
                 .bias = e.bias,
                 .residual = e.residual},
                3);
    check_about(weight,
                {.n = 40,
                 .output = DType::kBF16,
                 .activation = e.activation,
                 .bias = e.bias,
                 .residual = e.residual},
                5);
  }
}

TEST_F(DecodeOnDevice, FollowsTheKernelAheadInTheStream) {
  const TestWeight weight({512, 512, Pattern::kUniform, 0.3}, DType::kF16);
  for (const std::int64_t n : {8, 64}) {
    const Problem problem{.m = 512, .k = 512, .n = n};
    // The last one is of the wide kernel where there are many tokens.
    const std::vector<Candidate> candidates = candidates_of(weight, problem);
    expect_follows(std::span(candidates).last(1), weight, problem);
  }
}

TEST_F(DecodeOnDevice, NotFiniteActivationsReachTheRowsThatHoldThem) {
  const TestWeight weight({64, 128, Pattern::kFull, 1.0}, DType::kF16);
  for (const float special :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    for (const std::int64_t n : {1, 24})
      check_about(weight, {.n = n, .output = DType::kF32}, 4, special);
}

}  // namespace
}  // namespace rarefy::gpu
