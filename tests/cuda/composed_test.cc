// The composed family: packing on any machine, every kind of kernel against the reference on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "family_on_device.h"
#include "ops/spmm/cuda/composed/even_pack.h"
#include "ops/spmm/cuda/composed/pack.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy::gpu {
namespace {

/// Calls `put(column, value)` for what a vector holds.
template <class Put>
void walk_vector(const std::vector<std::byte>& columns, const std::vector<std::byte>& values,
                 const VectorFormat& format, std::size_t vector, const Put& put) {
  const auto vec = static_cast<std::size_t>(format.vec);
  std::uint32_t column = 0;
  for (std::size_t i = 0; i < vec; ++i) {
    if (format.delta()) {
      const std::uint64_t word = reinterpret_cast<const std::uint64_t*>(columns.data())[vector];
      const auto low = static_cast<std::uint32_t>(word);
      const auto high = static_cast<std::uint32_t>(word >> 32);
      if (i == 0) column = low & 0xFFFF;
      if (i == 1 || i == 2) column += low >> (10 + 6 * i) & 63;
      if (i > 2) column += high >> (6 * i - 18) & 63;
    } else {
      column = reinterpret_cast<const std::uint16_t*>(columns.data())[vector * vec + i];
      if (format.swizzled) column ^= column >> 3 & 7;  // The swizzle is its own inverse.
    }
    put(column, reinterpret_cast<const float*>(values.data())[vector * vec + i]);
  }
}

/// Adds up what the arrays hold, row by row.
std::vector<float> unpack(const ComposedArrays& arrays, const PackSpec& spec, std::int64_t rows,
                          std::int64_t cols) {
  std::map<std::uint32_t, std::uint32_t> row_of_piece;
  for (std::size_t i = 0; i < arrays.rows.size(); ++i) {
    for (std::uint32_t piece = arrays.first[i]; piece < arrays.first[i + 1]; ++piece) {
      row_of_piece[piece] = arrays.rows[i];
      EXPECT_EQ(arrays.row_of_piece[piece], i);
    }
  }
  std::vector<float> dense(static_cast<std::size_t>(rows * cols));
  for (std::size_t item = 0; item < arrays.target.size(); ++item) {
    const std::uint32_t to = arrays.target[item];
    const std::uint32_t owner = to & 0x1FFFFFFF;
    const std::uint32_t row = to >> 31 != 0 ? row_of_piece.at(owner) : owner;
    const std::size_t together = std::size_t{1} << (to >> 29 & 3);
    EXPECT_EQ(arrays.target[item / together * together], to) << "neighbours share a warp";
    std::vector<std::size_t> vectors;
    if (static_cast<std::int64_t>(item) < arrays.heads) {
      for (std::int64_t i = 0; i < spec.head; ++i)
        vectors.push_back(item * static_cast<std::size_t>(spec.head) + static_cast<std::size_t>(i));
    }
    for (std::size_t v = arrays.begin[item]; v < arrays.begin[item + 1]; ++v) vectors.push_back(v);
    for (const std::size_t v : vectors) {
      walk_vector(arrays.columns, arrays.values, spec.format, v,
                  [&](std::uint32_t column, float value) {
                    EXPECT_LT(column, cols);
                    dense[row * static_cast<std::size_t>(cols) + column] += value;
                  });
    }
  }
  return dense;
}

TEST(PackComposed, HoldsEveryNonzeroOnceInWholeVectors) {
  for (Pattern pattern :
       {Pattern::kUniform, Pattern::kEmptyRows, Pattern::kOneFullRow, Pattern::kRowSkew,
        Pattern::kColumnRuns, Pattern::kZero, Pattern::kFull}) {
    const TestWeight w({37, 301, pattern, 0.02}, DType::kF32);
    const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
    std::vector<float> expected(37 * 301);
    w.source->read_rows(0, 37, expected.data());
    for (const PackSpec& spec :
         {PackSpec{4, 16, false, 16}, PackSpec{4, 16, true, 64}, PackSpec{8, 16, false, 1000},
          PackSpec{8, 6, false, 16}, PackSpec{8, 6, true, 1000}, PackSpec{4, 16, false, 64, 1, 2},
          PackSpec{8, 6, false, 1000, 1, 1}, PackSpec{4, 16, false, 16, 4, 1},
          PackSpec{8, 16, false, 40, 8, 2}, PackSpec{8, 6, true, 24, 2}}) {
      const ComposedArrays arrays = pack_composed(csr, spec);
      for (std::size_t i = 1; i + 1 < arrays.begin.size() && spec.head == 0 && spec.neighbours == 1;
           ++i) {
        EXPECT_LE(arrays.begin[i + 1] - arrays.begin[i], arrays.begin[i] - arrays.begin[i - 1])
            << "items fall in length";
      }
      EXPECT_EQ(unpack(arrays, spec, 37, 301), expected)
          << testing::to_string(pattern) << " " << spec.format.index_bits << " "
          << spec.longest_item;
    }
  }
}

TEST(PackEven, HoldsEveryNonzeroOnceInSegmentsOfItsRow) {
  constexpr std::int64_t kRows = 67, kCols = 301;
  for (const Pattern pattern : kEveryPattern) {
    const TestWeight w({kRows, kCols, pattern, 0.05}, DType::kF32);
    std::vector<float> expected(kRows * kCols);
    w.source->read_rows(0, kRows, expected.data());
    for (const EvenSpec& spec :
         {EvenSpec{{4, 16, false}, 1, 1}, EvenSpec{{4, 16, true}, 4, 7}, EvenSpec{{8, 16}, 2, 13},
          EvenSpec{{8, 6}, 1, 5}, EvenSpec{{8, 6}, 8, 3}, EvenSpec{{8, 6}, 2, 100}}) {
      const EvenArrays arrays = pack_even(dynamic_cast<const CsrMatrix&>(*w.csr), spec);
      const std::string what = std::string(testing::to_string(pattern)) + ", " +
                               std::to_string(spec.format.index_bits) + " bits, groups of " +
                               std::to_string(spec.group);
      EXPECT_EQ(arrays.vectors % 32, 0) << what;
      std::vector<float> found(expected.size());
      std::vector<int> seen(kRows);
      const auto items = static_cast<std::size_t>(arrays.items);
      ASSERT_EQ(arrays.target.size(), items * static_cast<std::size_t>(spec.blocks)) << what;
      for (std::size_t block = 0; block < static_cast<std::size_t>(spec.blocks); ++block) {
        const std::size_t base = block * static_cast<std::size_t>(arrays.vectors);
        ASSERT_EQ(arrays.begin[block * items], base) << what;
        ASSERT_EQ(arrays.target[block * items + items - 1], kEvenNoRow) << what;
        for (std::size_t i = block * items; i < (block + 1) * items - 1; ++i) {
          if (arrays.target[i] == kEvenNoRow) {
            ASSERT_EQ(arrays.begin[i], arrays.begin[i + 1]) << what;
            continue;
          }
          EXPECT_EQ((arrays.begin[i] - base) % static_cast<std::size_t>(spec.group), 0) << what;
          ++seen.at(arrays.target[i]);
          for (std::size_t v = arrays.begin[i]; v < arrays.begin[i + 1]; ++v) {
            walk_vector(arrays.columns, arrays.values, spec.format, v,
                        [&](std::uint32_t column, float value) {
                          ASSERT_LT(column, kCols) << what;
                          found[arrays.target[i] * kCols + column] += value;
                        });
          }
        }
      }
      EXPECT_EQ(found, expected) << what;
      EXPECT_EQ(seen, std::vector<int>(kRows, 1)) << what;
    }
  }
}

TEST(PackEven, GivesTheSameBytesForAnyNumberOfThreads) {
  const TestWeight w({300, 700, Pattern::kRowSkew, 0.1}, DType::kBF16);
  const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
  const EvenSpec spec{{8, 6}, 2, 9};
  ThreadPool one(1), three(3);
  const EvenArrays expected = pack_even(csr, spec, one), found = pack_even(csr, spec, three);
  EXPECT_EQ(found.begin, expected.begin);
  EXPECT_EQ(found.target, expected.target);
  EXPECT_EQ(found.columns, expected.columns);
  EXPECT_EQ(found.values, expected.values);
}

TEST(PackEven, SharesAlikeWhateverTheRows) {
  constexpr std::int64_t kRows = 1600, kCols = 2000;
  for (const Pattern pattern : {Pattern::kUniform, Pattern::kRowSkew, Pattern::kColumnRuns}) {
    const TestWeight w({kRows, kCols, pattern, 0.05}, DType::kF16);
    const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
    const EvenSpec spec{{8, 16}, 2, 16};
    const EvenArrays arrays = pack_even(csr, spec);
    double needed = 0;  // Segments of two vectors of eight.
    for (std::int64_t r = 0; r < kRows; ++r)
      needed +=
          std::ceil(static_cast<double>(csr.row_offsets()[r + 1] - csr.row_offsets()[r]) / 16);
    EXPECT_LT(static_cast<double>(arrays.vectors) * 16, needed * 2 * 1.02 + 16 * 32)
        << testing::to_string(pattern);
  }
}

bool is_even(const Candidate& candidate) {
  return candidate.name.ends_with(".even");
}

TEST(ComposedFamily, OffersLegalConfigurationsOfDistinctNames) {
  const cuda::DeviceFacts hopper = cuda::h100_facts();
  for (const std::int64_t k : {64, 4096, 200000}) {
    for (const std::int64_t n : {1, 3, 16, 200}) {
      PatternStats pattern;
      pattern.rows = 1000;
      pattern.cols = k;
      pattern.nnz = 1000 * k / 50;
      const Problem problem{.m = 1000, .k = k, .n = n};
      const std::vector<Candidate> found = composed_family().candidates(problem, pattern, hopper);
      EXPECT_FALSE(found.empty()) << k << " " << n;
      std::set<std::string> names;
      for (const Candidate& c : found) {
        EXPECT_TRUE(names.insert(c.name).second) << c.name;
        EXPECT_GT(c.estimate_us, 0) << c.name;
        EXPECT_LT(c.estimate_us, 1e5) << c.name;
      }
    }
  }
}

TEST(ComposedFamily, SharesEvenlyWhereRowsDiffer) {
  const cuda::DeviceFacts hopper = cuda::h100_facts();
  const Problem problem{.m = 14336, .k = 4096, .n = 1};
  PatternStats pattern;
  pattern.rows = problem.m;
  pattern.cols = problem.k;
  for (std::int64_t row = 0; row < problem.m; ++row)
    pattern.row_nnz.push_back(row % 50 == 0 ? 3000 : 150);
  for (const std::int32_t n : pattern.row_nnz) pattern.nnz += n;
  const std::vector<Candidate> found = composed_family().candidates(problem, pattern, hopper);
  const auto best = std::min_element(
      found.begin(), found.end(),
      [](const Candidate& a, const Candidate& b) { return a.estimate_us < b.estimate_us; });
  EXPECT_TRUE(is_even(*best)) << best->name;
}

TEST(ComposedFamily, TakesRowsThatABlockCannotShare) {
  // One row of a small weight is more than a block's share: what all blocks are filled up to.
  const cuda::DeviceFacts hopper = cuda::h100_facts();
  const Problem problem{.m = 256, .k = 32768, .n = 1};
  PatternStats pattern;
  pattern.rows = problem.m;
  pattern.cols = problem.k;
  pattern.row_nnz.assign(static_cast<std::size_t>(problem.m), 20);
  pattern.row_nnz.front() = 32768;
  for (const std::int32_t n : pattern.row_nnz) pattern.nnz += n;
  for (const Candidate& c : composed_family().candidates(problem, pattern, hopper)) {
    if (!is_even(c)) continue;
    // 132 blocks of 32768 nonzeros each are 17 MB.
    EXPECT_GT(c.estimate_us, 5) << c.name;
  }
}

TEST(ComposedFamily, HasEstimatesForWeightsWithoutColumns) {
  const cuda::DeviceFacts hopper = cuda::h100_facts();
  PatternStats pattern;
  pattern.rows = 100;
  for (const Candidate& c :
       composed_family().candidates({.m = 100, .k = 0, .n = 1}, pattern, hopper))
    EXPECT_TRUE(std::isfinite(c.estimate_us)) << c.name;
}

class ComposedOnDevice : public FamilyOnDevice {
 protected:
  ComposedOnDevice() : FamilyOnDevice(composed_family(), {}) {}
};

TEST_F(ComposedOnDevice, EveryPatternEveryDtype) {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    for (const Pattern pattern : kEveryPattern) {
      const TestWeight weight({131, 515, pattern, 0.1}, dtype);
      check(weight, {.n = 3, .activations = dtype, .output = dtype}, 23);
    }
  }
}

TEST_F(ComposedOnDevice, EveryNumberOfTokensInBothLayouts) {
  const TestWeight weight({300, 1000, Pattern::kUniform, 0.05}, DType::kF16);
  for (const std::int64_t n : {1, 2, 5, 8, 16, 17, 33, 64, 100}) {
    for (const Layout layout : {Layout::kTokenMajor, Layout::kFeatureMajor})
      check(weight, {.n = n, .layout = layout}, 29);
  }
}

TEST_F(ComposedOnDevice, ManyConfigurationsOfOneProblem) {
  const TestWeight weight({700, 2000, Pattern::kUniform, 0.2}, DType::kF16);
  check(weight, {.n = 1}, 2);
  check(weight, {.n = 8, .layout = Layout::kFeatureMajor}, 5);
}

TEST_F(ComposedOnDevice, ManyThreadsShareTheRowsOfASmallWeight) {
  const TestWeight weight({7, 30000, Pattern::kUniform, 0.4}, DType::kF16);
  const std::vector<Candidate> found = composed_family().candidates(
      {.m = 7, .k = 30000, .n = 1}, weight.pattern, cuda::Device::get().facts());
  EXPECT_TRUE(std::any_of(found.begin(), found.end(), [](const Candidate& c) {
    return c.name.find(".g1024.") != std::string::npos;
  }));
  check(weight, {.n = 1}, 3);
  check(weight, {.n = 2}, 7);
}

TEST_F(ComposedOnDevice, NonzerosSharedEvenly) {
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    for (const Pattern pattern : kEveryPattern) {
      const TestWeight weight({531, 1003, pattern, 0.1}, dtype);
      for (const std::int64_t n : {1, 2, 4}) {
        check_if(is_even, weight, {.n = n, .activations = dtype, .output = dtype}, n == 1 ? 5 : 3);
      }
      check_if(is_even, weight,
               {.n = 3, .activations = dtype, .output = dtype, .layout = Layout::kFeatureMajor}, 3);
    }
  }
  // More rows than a block has threads.
  const TestWeight tall({150'000, 16, Pattern::kRowSkew, 0.1}, DType::kF16);
  for (const std::int64_t n : {1, 3}) check_if(is_even, tall, {.n = n}, 4);
  const TestWeight weight({9000, 300, Pattern::kRowSkew, 0.2}, DType::kBF16);
  for (const Epilogue& e : kSomeEpilogues) {
    check_if(is_even, weight,
             {.n = 2,
              .output = DType::kF32,
              .activation = e.activation,
              .bias = e.bias,
              .residual = e.residual},
             3);
  }
}

TEST_F(ComposedOnDevice, NonzerosSharedEvenlyLeaveNotFiniteActivationsToTheRowsThatHoldThem) {
  const TestWeight weight({64, 128, Pattern::kUniform, 0.3}, DType::kF16);
  for (const float special :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    for (const std::int64_t n : {1, 4})
      check_if(is_even, weight, {.n = n, .output = DType::kF32}, 3, special);
  }
}

TEST_F(ComposedOnDevice, NonzerosSharedEvenlyServeAnyNumberOfTokens) {
  const cuda::Stream stream;
  const TestWeight weight({300, 1000, Pattern::kRowSkew, 0.1}, DType::kF16);
  Problem problem{.m = 300, .k = 1000, .n = 2};
  for (const Candidate& candidate : candidates_of(weight, problem)) {
    if (!candidate.name.ends_with(".t512x2.even")) continue;
    const std::unique_ptr<Operator> op = candidate.build(weight.weight(), stream);
    for (const std::int64_t n : {1, 2, 5, 9}) {
      problem.n = n;
      const Case run(weight, problem, 0);
      run.expect_close(run.device(*op, stream), candidate.name, Rounds::kOnce);
    }
  }
}

TEST_F(ComposedOnDevice, PiecesInAnyOrderWhereThatIsAllowed) {
  const TestWeight weight({500, 3000, Pattern::kOneFullRow, 0.02}, DType::kF32);
  const Problem problem{
      .n = 5, .activations = DType::kF32, .output = DType::kF32, .any_order = true};
  const std::vector<Candidate> found =
      composed_family().candidates({.m = 500, .k = 3000, .n = 5, .any_order = true}, weight.pattern,
                                   cuda::Device::get().facts());
  EXPECT_TRUE(std::any_of(found.begin(), found.end(), [](const Candidate& c) {
    return c.name.find(".anyorder") != std::string::npos;
  }));
  check(weight, problem, 1);
}

TEST_F(ComposedOnDevice, RowsThatAreAlikeNeedNoList) {
  const TestWeight weight({333, 203, Pattern::kFull, 1}, DType::kF16);
  const std::vector<Candidate> found = composed_family().candidates(
      {.m = 333, .k = 203, .n = 1}, weight.pattern, cuda::Device::get().facts());
  EXPECT_TRUE(std::any_of(found.begin(), found.end(),
                          [](const Candidate& c) { return c.name.ends_with(".alike"); }));
  check(weight, {.n = 1}, 2);
  check(weight, {.n = 8}, 3);
}

TEST_F(ComposedOnDevice, MixedDtypesAndEpilogues) {
  const TestWeight weight({65, 300, Pattern::kRowSkew, 0.2}, DType::kBF16);
  for (const Epilogue& e : kSomeEpilogues) {
    check(weight,
          {.n = 4,
           .activations = DType::kF32,
           .output = DType::kF32,
           .activation = e.activation,
           .bias = e.bias,
           .residual = e.residual},
          5);
  }
}

TEST_F(ComposedOnDevice, ColumnsBeyondSixteenBits) {
  const TestWeight weight({20, 70000, Pattern::kUniform, 0.01}, DType::kF16);
  check(weight, {.n = 1}, 3);
  check(weight, {.n = 2, .layout = Layout::kFeatureMajor}, 3);
  check(weight, {.n = 2}, 3);
}

TEST_F(ComposedOnDevice, NotFiniteActivationsReachTheRowsThatHoldThem) {
  const TestWeight weight({64, 128, Pattern::kUniform, 0.3}, DType::kF16);
  for (const float special :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    check(weight, {.n = 1, .output = DType::kF32}, 3, special);
  }
}

/// Launches overlap the kernel ahead of them: each must still see all that it wrote.
TEST_F(ComposedOnDevice, ChainedRunsSeeEachOthersResults) {
  const TestWeight weight({2048, 2048, Pattern::kRowSkew, 0.02}, DType::kF16);
  const Problem problem{
      .m = 2048, .k = 2048, .n = 1, .activations = DType::kF32, .output = DType::kF32};
  const cuda::Stream stream;
  const std::vector<Candidate> candidates =
      composed_family().candidates(problem, weight.pattern, stream.device().facts());
  std::vector<float> start(2048);
  for (std::size_t i = 0; i < start.size(); ++i)
    start[i] = static_cast<float>(i % 13) * 0.1F - 0.6F;
  for (std::size_t i = 0; i < candidates.size(); i += 9) {
    const std::unique_ptr<Operator> op = candidates[i].build(weight.weight(), stream);
    const auto chain = [&](bool wait) {
      const cuda::DeviceBuffer x[2] = {cuda::upload<float>(stream, start),
                                       cuda::upload<float>(stream, start)};
      constexpr int kLinks = 20;
      for (int link = 0; link < kLinks; ++link) {
        op->enqueue(stream, {.b = x[link % 2].address(),
                             .b_stride = 2048,
                             .c = x[1 - link % 2].address(),
                             .c_stride = 2048,
                             .n = 1});
        if (wait) stream.synchronize();
      }
      return cuda::download<float>(stream, x[0]);
    };
    const std::vector<float> apart = chain(true);
    const std::vector<float> together = chain(false);
    ASSERT_EQ(std::memcmp(apart.data(), together.data(), apart.size() * sizeof(float)), 0)
        << candidates[i].name;
  }
}

TEST_F(ComposedOnDevice, SearchFindsAKernelAndRemembersIt) {
  const std::string folder = ::testing::TempDir() + "composed_search";
  setenv("RAREFY_CACHE", folder.c_str(), 1);
  const TestWeight weight({2048, 2048, Pattern::kUniform, 0.05}, DType::kF16);
  const cuda::Stream stream;
  const Problem problem{.m = 2048, .k = 2048, .n = 1};
  const Choice first = choose(weight.weight(), problem, stream, {.measure_best = 4});
  EXPECT_FALSE(first.from_cache);
  EXPECT_GT(first.time_us, 0.5);
  EXPECT_LT(first.time_us, 1000);
  const Choice again = choose(weight.weight(), problem, stream, {.measure_best = 4});
  EXPECT_TRUE(again.from_cache);
  EXPECT_EQ(again.name, first.name);
  const Case run(weight, problem);
  run.expect_close(run.device(*again.op, stream), again.name);
  unsetenv("RAREFY_CACHE");
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace rarefy::gpu
