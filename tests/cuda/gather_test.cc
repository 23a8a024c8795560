// The gather family: packing on any machine, every kind of kernel against the reference on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "family_on_device.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/gather/gather_order.h"
#include "ops/spmm/cuda/gather/gather_pack.h"
#include "ops/spmm/cuda/gather/gather_strips.h"

namespace rarefy::gpu {
namespace {

GatherConfig config_for(std::int64_t rows, std::int64_t cols, int split, int tiles, int warps,
                        int delta = 0) {
  const auto groups = static_cast<int>(((rows + 15) / 16 + tiles - 1) / tiles);
  return {.warps = warps,
          .split = split,
          .tiles = tiles,
          .groups = groups,
          .columns = static_cast<int>(((cols + split - 1) / split + 7) / 8 * 8),
          .delta = delta,
          .most_strips = 4 * groups};
}

/// Rows of lognormal densities; the middle one may be full, the first and the last empty.
TestWeight skewed_rows(std::int64_t rows, std::int64_t cols, double density, double sigma,
                       bool ends_and_full, DType dtype = DType::kF16) {
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<double> shares(static_cast<std::size_t>(rows));
  for (double& share : shares) share = std::exp(sigma * normal(random));
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share *= density * static_cast<double>(rows) / sum;
  if (ends_and_full) {
    shares.front() = shares.back() = 0;
    shares[shares.size() / 2] = 1;
  }
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(rows * cols));
  for (const double share : shares)
    for (std::int64_t c = 0; c < cols; ++c)
      values.push_back(uniform(random) < share ? static_cast<float>(0.5 + uniform(random)) : 0.0F);
  return {values, rows, cols, dtype};
}

/// Of a packed weight.
double bytes_a_nonzero(const TestWeight& weight, const GatherConfig& config) {
  const GatherArrays arrays =
      pack_gather(dynamic_cast<const CsrMatrix&>(*weight.csr), config, default_pool());
  return 4 * static_cast<double>(arrays.stream.size()) / static_cast<double>(arrays.nonzeros);
}

TEST(PackGather, ReturnsEveryBit) {
  constexpr std::int64_t kRows = 150, kCols = 803;
  for (const Pattern pattern : kEveryPattern) {
    const TestWeight w({kRows, kCols, pattern, 0.1}, DType::kF16);
    const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
    std::vector<std::uint16_t> expected(static_cast<std::size_t>(kRows * kCols));
    csr.read_rows(0, kRows, expected.data());
    for (const int split : {1, 3, 4}) {
      for (const int tiles : {1, 3, 10}) {
        for (const int warps : {1, 16}) {
          for (const int delta : {0, 7, 11}) {
            const GatherConfig config = config_for(kRows, kCols, split, tiles, warps, delta);
            const GatherArrays arrays = pack_gather(csr, config, default_pool());
            EXPECT_EQ(arrays.nonzeros, csr.entries());
            EXPECT_EQ(unpack_gather(arrays, config, kRows, kCols), expected)
                << testing::to_string(pattern) << " split " << split << ", " << tiles << " tiles, "
                << warps << " warps, delta " << delta;
          }
        }
      }
    }
  }
}

TEST(PackGather, ReturnsEveryBitOfWideRows) {
  // First columns of chunks up to the fifteen bits that delta columns have for them.
  constexpr std::int64_t kRows = 20, kCols = 1 << 15;
  const TestWeight w({kRows, kCols, Pattern::kUniform, 0.01}, DType::kF16);
  const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
  std::vector<std::uint16_t> expected(static_cast<std::size_t>(kRows * kCols));
  csr.read_rows(0, kRows, expected.data());
  for (const int delta : {0, 7, 11}) {
    const GatherConfig config = config_for(kRows, kCols, 1, 1, 4, delta);
    const GatherArrays arrays = pack_gather(csr, config, default_pool());
    EXPECT_EQ(unpack_gather(arrays, config, kRows, kCols), expected) << delta;
  }
}

TEST(PackGather, ReturnsEveryBitOfRowsThatAreCut) {
  constexpr std::int64_t kRows = 150, kCols = 803;
  for (const double density : {0.003, 0.1}) {
    const TestWeight w = skewed_rows(kRows, kCols, density, 1.5, true);
    const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
    std::vector<std::uint16_t> expected(static_cast<std::size_t>(kRows * kCols));
    csr.read_rows(0, kRows, expected.data());
    for (const int split : {1, 3}) {
      for (const int tiles : {1, 3, 10}) {
        for (const int delta : {0, 7, 11}) {
          GatherConfig config = config_for(kRows, kCols, split, tiles, 16, delta);
          for (const int room : {0, 1, 3 * config.groups}) {
            config.most_strips = config.groups + room;
            const GatherArrays arrays = pack_gather(csr, config, default_pool());
            EXPECT_LE(arrays.strips_a_block, config.most_strips);
            if (room > 0) {
              EXPECT_GT(arrays.strips_a_block, config.groups);
            }
            EXPECT_EQ(arrays.nonzeros, csr.entries());
            EXPECT_EQ(unpack_gather(arrays, config, kRows, kCols), expected)
                << "density " << density << ", split " << split << ", " << tiles << " tiles, delta "
                << delta << ", room for " << room;
          }
        }
      }
    }
  }
}

TEST(PackGather, GathersFromDifferentBanks) {
  // Straight from the words: the eight columns of each matrix, as ldmatrix reads them.
  const TestWeight w({112, 4096, Pattern::kUniform, 0.1}, DType::kF16);
  const GatherConfig config = config_for(112, 4096, 1, 1, 16);
  const GatherArrays arrays =
      pack_gather(dynamic_cast<const CsrMatrix&>(*w.csr), config, default_pool());
  const std::vector<std::uint32_t>& words = arrays.stream;
  std::int64_t meetings = 0;
  for (std::size_t matrix = 0; matrix < words.size() / 32; ++matrix) {
    for (std::size_t pair = 0; pair < 4; ++pair) {
      std::set<std::uint32_t> columns, banks;
      for (std::size_t row = 0; row < 8; ++row) {
        const std::uint32_t column = words[(matrix * 8 + row) * 4 + pair] >> 16;
        columns.insert(column);
        banks.insert(column % 8);
      }
      meetings += static_cast<std::int64_t>(columns.size() - banks.size());
    }
  }
  EXPECT_LE(meetings, arrays.conflicts);
  EXPECT_LT(static_cast<double>(arrays.conflicts), 0.02 * static_cast<double>(arrays.nonzeros));
}

TEST(PackGather, PadsLittle) {
  struct Expected {
    double density, bytes;
  };
  for (const auto& [density, bytes] : {Expected{0.2, 4.12}, {0.1, 4.2}, {0.05, 4.3}, {0.01, 4.8}}) {
    const TestWeight w({112, 4096, Pattern::kUniform, density}, DType::kF16);
    const GatherArrays arrays = pack_gather(dynamic_cast<const CsrMatrix&>(*w.csr),
                                            config_for(112, 4096, 1, 1, 16), default_pool());
    EXPECT_LT(static_cast<double>(arrays.stream.size() * 4),
              bytes * static_cast<double>(arrays.nonzeros))
        << density;
  }
}

TEST(PackGather, PadsSkewedRowsAsLittle) {
  // Uncut, these take 6.9 bytes a nonzero (5.4 and 6.1 with delta columns), cut 4.35 (3.67, 3.84).
  // Steps of 7 bits are too short for the many sparse rows of a skewed weight: zeros in between
  // are the tenth that they take more than a uniform one.
  constexpr std::int64_t kRows = 448, kCols = 4096;
  const TestWeight uniform = skewed_rows(kRows, kCols, 0.05, 0, false);
  const TestWeight skewed = skewed_rows(kRows, kCols, 0.05, 0.8, false);
  for (const int split : {1, 2}) {
    for (const int delta : {0, 7, 11}) {
      const GatherConfig config = config_for(kRows, kCols, split, 4, 16, delta);
      EXPECT_LT(bytes_a_nonzero(skewed, config),
                (delta == 7 ? 1.12 : 1.08) * bytes_a_nonzero(uniform, config))
          << "split " << split << ", delta " << delta;
    }
  }
}

TEST(PackGather, LeavesUniformRowsWhole) {
  for (const double density : {0.2, 0.1, 0.05, 0.01}) {
    const TestWeight w({112, 4096, Pattern::kUniform, density}, DType::kF16);
    for (const int delta : {0, 7, 11}) {
      const GatherConfig config = config_for(112, 4096, 1, 1, 16, delta);
      const GatherArrays arrays =
          pack_gather(dynamic_cast<const CsrMatrix&>(*w.csr), config, default_pool());
      EXPECT_EQ(arrays.strips_a_block, config.groups) << density << ", delta " << delta;
    }
  }
}

/// Chunks of all strips. Every step of every row must be in one run, those of a row in order.
std::int64_t count_chunks(const std::vector<std::int32_t>& lengths, const StripLimits& limits) {
  const std::vector<GatherRun> runs = make_strips(lengths, limits);
  EXPECT_EQ(runs.size() % 16, 0U);
  EXPECT_LE(runs.size() / 16, static_cast<std::size_t>(limits.most_strips));
  std::vector<std::int32_t> ends(lengths.size(), -1);
  std::int64_t chunks = 0;
  for (std::size_t strip = 0; strip < runs.size(); strip += 16) {
    std::int32_t longest = 0;
    for (std::size_t i = strip; i < strip + 16; ++i) {
      const GatherRun& run = runs[i];
      longest = std::max(longest, run.steps);
      if (run.row < 0) {
        EXPECT_EQ(run.steps, 0);
        continue;
      }
      std::int32_t& end = ends[static_cast<std::size_t>(run.row)];
      EXPECT_EQ(run.first, std::max(end, 0));
      end = run.first + run.steps;
    }
    if (longest > 0)
      chunks += (longest + limits.spare_steps + limits.chunk_steps - 1) / limits.chunk_steps;
  }
  EXPECT_EQ(ends, lengths);
  return chunks;
}

TEST(GatherStrips, CutsALongRowIntoSixteen) {
  std::vector<std::int32_t> lengths(112, 8);
  lengths[50] = 4096;
  lengths[51] = 0;
  EXPECT_EQ(count_chunks(lengths, {.most_strips = 7}), 512 + 6) << "no room";
  EXPECT_EQ(count_chunks(lengths, {.most_strips = 8}), 32 + 7);
  EXPECT_EQ(count_chunks(lengths, {.most_strips = 28}), 32 + 7);
}

TEST(GatherStrips, CutsLessWhereStepsAreToSpare) {
  const std::vector<std::int32_t> rows = {3000, 0, 1, 700, 20, 20, 20, 20, 20, 20};
  for (const int spare : {0, 3}) {
    std::int64_t before = count_chunks(rows, {16, spare, 1});
    for (int most = 2; most <= 8; ++most) {
      const std::int64_t chunks = count_chunks(rows, {16, spare, most});
      EXPECT_LE(chunks, before);
      before = chunks;
    }
    // 3821 nonzeros of 16 rows of whole chunks are 15.
    EXPECT_LE(before, 20) << spare;
  }
}

TEST(GatherStrips, TakesAnything) {
  EXPECT_EQ(count_chunks({}, {}), 0);
  EXPECT_EQ(count_chunks({0, 0}, {}), 0);
  EXPECT_EQ(count_chunks({1}, {.most_strips = 5}), 1);
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) {
    std::vector<std::int32_t> lengths(random() % 100);
    for (std::int32_t& length : lengths)
      length = static_cast<std::int32_t>(random() % (random() % 50 == 0 ? 5000 : 60));
    const auto groups = static_cast<int>((lengths.size() + 15) / 16);
    const StripLimits uncut{random() % 2 != 0 ? 8 : 16, static_cast<int>(random() % 4),
                            std::max(1, groups)};
    StripLimits cut = uncut;
    cut.most_strips += static_cast<int>(random() % 20);
    EXPECT_LE(count_chunks(lengths, cut), count_chunks(lengths, uncut));
  }
}

TEST(PackGather, DeltaColumnsTakeFewerBytesAndShareFewBanks) {
  struct Expected {
    int delta;
    double density, bytes, conflicts;
  };
  for (const auto& [delta, density, bytes, conflicts] : {Expected{7, 0.2, 3.08, 0.05},
                                                         {7, 0.1, 3.17, 0.09},
                                                         {7, 0.05, 3.45, 0.14},
                                                         {11, 0.1, 3.65, 0.035},
                                                         {11, 0.05, 3.8, 0.04}}) {
    const TestWeight w({112, 4096, Pattern::kUniform, density}, DType::kF16);
    const GatherArrays arrays = pack_gather(dynamic_cast<const CsrMatrix&>(*w.csr),
                                            config_for(112, 4096, 1, 1, 16, delta), default_pool());
    const auto nonzeros = static_cast<double>(arrays.nonzeros);
    EXPECT_LT(static_cast<double>(arrays.stream.size() * 4), bytes * nonzeros) << density;
    EXPECT_LT(static_cast<double>(arrays.conflicts), conflicts * nonzeros) << density;
  }
}

TEST(GatherOrder, StepsStayWithinReach) {
  // Every 100th column, beside full rows and empty ones: zeros lead from one to the next.
  GatherRows rows;
  for (int column = 0; column < 4096; ++column)
    for (std::size_t r = 0; r < rows.size(); ++r)
      if (r % 4 == 0 || (r % 4 == 1 && column % 100 == 0))
        rows[r].push_back(
            {static_cast<std::uint16_t>(1 + column), static_cast<std::uint16_t>(column)});
  constexpr int kChunkSteps = 16;
  constexpr GatherReach kReach = gather_reach(7);
  const GatherOrder order = order_within_reach(rows, kChunkSteps, kReach);
  ASSERT_EQ(order.halves[0].size() % kChunkSteps, 0U);
  ASSERT_EQ(order.halves[0].size(), order.halves[1].size());
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::vector<int> seen;
    for (std::size_t i = 0; i < order.halves[r / 8].size(); ++i) {
      const GatherEntry entry = order.halves[r / 8][i][r % 8];
      if (entry.value != 0) {
        EXPECT_EQ(entry.value, entry.column + 1);
        seen.push_back(entry.column);
      }
      if (i % kChunkSteps < 2) continue;
      const int step = entry.column - order.halves[r / 8][i - 2][r % 8].column;
      EXPECT_LE(-kReach.back, step) << "row " << r << ", step " << i;
      EXPECT_LE(step, kReach.forth) << "row " << r << ", step " << i;
    }
    std::sort(seen.begin(), seen.end());
    std::vector<int> all;
    for (const GatherEntry& entry : rows[r]) all.push_back(entry.column);
    EXPECT_EQ(seen, all) << "row " << r;
  }
}

TEST(PackGather, GivesTheSameBytesForAnyThreads) {
  const TestWeight w({300, 700, Pattern::kRowSkew, 0.1}, DType::kBF16);
  const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
  const GatherConfig config = config_for(300, 700, 2, 5, 8);
  ThreadPool one(1), three(3);
  const GatherArrays a = pack_gather(csr, config, one);
  const GatherArrays b = pack_gather(csr, config, three);
  EXPECT_EQ(a.stream, b.stream);
  EXPECT_EQ(a.places, b.places);
  EXPECT_EQ(a.groups, b.groups);
  EXPECT_EQ(a.conflicts, b.conflicts);
}

TEST(PackGather, DealsSkewedRowsEvenly) {
  // A quarter of the rows is heavy, the rest almost empty: contiguous tiles would differ fourfold.
  constexpr std::int64_t kRows = 64 * 16, kCols = 256;
  std::vector<std::uint16_t> values(static_cast<std::size_t>(kRows * kCols));
  for (std::int64_t r = 0; r < kRows / 4; ++r)
    for (std::int64_t c = 0; c < kCols; ++c)
      values[static_cast<std::size_t>(r * kCols + c)] = c % 4 == 0 ? 0x3C00 : 0;
  const DenseSource source(ConstMatrixRef{values.data(), DType::kF16, kRows, kCols, kCols});
  const MatrixPtr csr = pack(source, format::kCsr32);
  const GatherConfig config = config_for(kRows, kCols, 1, 16, 4);
  const GatherArrays arrays =
      pack_gather(dynamic_cast<const CsrMatrix&>(*csr), config, default_pool());
  std::uint32_t most = 0;
  for (std::size_t tile = 0; tile < 16; ++tile) {
    std::uint32_t chunks = 0;
    const auto strips = static_cast<std::size_t>(arrays.strips_a_block);
    for (std::size_t s = 0; s < strips; ++s) chunks += arrays.strips[tile * strips + s].chunks;
    most = std::max(most, chunks);
  }
  EXPECT_EQ(most * 16 * 128, arrays.stream.size());
  EXPECT_EQ(unpack_gather(arrays, config, kRows, kCols), values);
}

TEST(GatherFamily, OffersConfigurationsThatHoldAllRows) {
  for (const std::int64_t m : {1, 100, 4096, 14336, 28672, 128256}) {
    for (const std::int64_t n : {1, 16, 33, 128, 4096}) {
      for (const std::int64_t k : {1, 4096, 8192}) {
        const Problem problem{.m = m, .k = k, .n = n};
        const std::vector<GatherConfig> found = gather_configs(problem, cuda::h100_facts());
        EXPECT_FALSE(found.empty()) << m << " " << k << " " << n;
        PatternStats pattern;
        pattern.rows = m;
        pattern.cols = k;
        pattern.nnz = m * k / 10;
        std::set<std::string> names;
        for (const GatherConfig& c : found) {
          EXPECT_GE(std::int64_t{c.tiles} * c.groups * 16, m) << c.name();
          EXPECT_GE(c.most_strips, c.groups + (c.tall ? 1 : 0)) << c.name();
          EXPECT_GE(std::int64_t{c.columns} * c.split, k) << c.name();
          EXPECT_EQ(c.columns % 8, 0) << c.name();
          EXPECT_LE(c.shared_bytes(c.most_strips), 232448) << c.name();
          EXPECT_TRUE(names.insert(c.name()).second) << c.name();
          const double us = estimate_us(c, problem, strip_stats(pattern), cuda::h100_facts());
          EXPECT_GT(us, 1) << c.name();
          EXPECT_LT(us, 1e6) << c.name();
        }
      }
    }
  }
}

TEST(GatherFamily, TallBlocksTakeAsManyRowsAsFit) {
  // 4096 columns of eight tokens are 64 KB, and a strip takes 556 bytes beside them.
  const Problem problem{.m = 14336, .k = 4096, .n = 4096};
  int fewest_tiles = 1 << 30;
  for (const GatherConfig& c : gather_configs(problem, cuda::h100_facts())) {
    EXPECT_TRUE(c.tall) << c.name();
    fewest_tiles = std::min(fewest_tiles, c.tiles);
  }
  EXPECT_LE(fewest_tiles, 7);
  for (const GatherConfig& c : gather_configs({.m = 14336, .k = 4096, .n = 64}, cuda::h100_facts()))
    EXPECT_FALSE(c.tall) << c.name();
}

TEST(GatherFamily, SaysWhatItDoesNotTake) {
  Problem problem{.m = 64, .k = 64, .n = 1};
  EXPECT_TRUE(gather_family().supports(problem, cuda::h100_facts()));
  problem.weight = problem.activations = DType::kF32;
  EXPECT_NE(gather_family().supports(problem, cuda::h100_facts()).reason.find("f32"),
            std::string::npos);
  problem.weight = problem.activations = DType::kF16;
  problem.k = 1 << 20;
  EXPECT_NE(gather_family().supports(problem, cuda::h100_facts()).reason.find("1048576 columns"),
            std::string::npos);
  problem.k = 64;
  problem.layout = Layout::kFeatureMajor;
  EXPECT_FALSE(gather_family().supports(problem, cuda::h100_facts()));
  problem.layout = Layout::kTokenMajor;
  cuda::DeviceFacts ampere = cuda::h100_facts();
  ampere.major = 8;
  EXPECT_NE(gather_family().supports(problem, ampere).reason.find("9.0"), std::string::npos);
}

class GatherOnDevice : public FamilyOnDevice {
 protected:
  GatherOnDevice() : FamilyOnDevice(gather_family(), {.major = 9, .one_dtype = true}) {}
};

TEST_F(GatherOnDevice, EveryPattern) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const Pattern pattern : kEveryPattern) {
      const TestWeight weight({131, 1030, pattern, 0.1}, dtype);
      check(weight, {.n = 3, .output = dtype}, 3);
    }
  }
}

TEST_F(GatherOnDevice, RowsThatAreCut) {
  for (const bool ends_and_full : {false, true}) {
    const TestWeight weight = skewed_rows(331, 1030, 0.05, 1.5, ends_and_full);
    for (const std::int64_t n : {1, 8, 13, 30}) check(weight, {.n = n});
  }
  // Tall blocks, and as many strips as there is room for.
  const TestWeight tall = skewed_rows(9000, 520, 0.02, 1.5, true, DType::kBF16);
  check(tall, {.n = 130, .output = DType::kF32}, 2);
}

TEST_F(GatherOnDevice, EveryNumberOfTokens) {
  const TestWeight weight({300, 1000, Pattern::kUniform, 0.1}, DType::kF16);
  for (const std::int64_t n : {1, 2, 5, 8, 9, 16, 17, 33, 64, 100})
    check(weight, {.n = n}, n > 16 ? 3 : 2);
}

TEST_F(GatherOnDevice, HundredsOfTokens) {
  const TestWeight weight({3000, 1030, Pattern::kRowSkew, 0.02}, DType::kBF16);
  for (const std::int64_t n : {65, 136, 601}) check(weight, {.n = n}, 3);
}

TEST_F(GatherOnDevice, ColumnsThatAreNotAligned) {
  for (const std::int64_t cols : {1, 7, 15, 33, 517}) {
    const TestWeight weight({70, cols, Pattern::kUniform, 0.3}, DType::kBF16);
    check(weight, {.n = 4, .output = DType::kF32}, 2);
    check(weight, {.n = 20, .output = DType::kF32}, 3);
  }
}

TEST_F(GatherOnDevice, WideRows) {
  const TestWeight weight({160, 12000, Pattern::kUniform, 0.05}, DType::kF16);
  check(weight, {.n = 8});
}

TEST_F(GatherOnDevice, ManyStripsOfABlock) {
  const TestWeight weight({14336, 512, Pattern::kRowSkew, 0.03}, DType::kF16);
  check(weight, {.n = 8});
  check(weight, {.n = 16});
}

TEST_F(GatherOnDevice, Epilogues) {
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

TEST_F(GatherOnDevice, FollowsTheKernelAheadInTheStream) {
  const TestWeight weight({512, 512, Pattern::kUniform, 0.1}, DType::kF16);
  const Problem problem{.m = 512, .k = 512, .n = 8};
  expect_follows(candidates_of(weight, problem), weight, problem);
}

TEST_F(GatherOnDevice, CutRowsFollowTheKernelAheadInTheStream) {
  const TestWeight weight = skewed_rows(512, 512, 0.05, 1.2, true);
  const Problem problem{.m = 512, .k = 512, .n = 8};
  expect_follows(candidates_of(weight, problem), weight, problem);
}

TEST_F(GatherOnDevice, NotFiniteActivationsReachTheRowsThatHoldThem) {
  // As NaN, also where dense has an infinity: the zeros of a strip's other rows multiply them, too.
  const TestWeight weight({64, 128, Pattern::kFull, 1.0}, DType::kF16);
  const cuda::Stream stream;
  const Problem problem{.m = 64, .k = 128, .n = 1, .output = DType::kF32};
  for (const float special :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const Case run(weight, problem, special);
    for (const Candidate& candidate :
         gather_family().candidates(problem, weight.pattern, stream.device().facts())) {
      for (const float value : run.device(*candidate.build(weight.weight(), stream), stream))
        ASSERT_FALSE(std::isfinite(value)) << candidate.name;
    }
  }
}

}  // namespace
}  // namespace rarefy::gpu
