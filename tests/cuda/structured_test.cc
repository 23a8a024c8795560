// The structured family: what 2:4 is and what is not taken on any machine; products through
// cuSPARSELt against the reference where there are a GPU and the library.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cuda/cusparselt.h"
#include "family_on_device.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/search.h"
#include "ops/spmm/cuda/structured/structured_products.h"
#include "ops/spmm/cuda/structured/two_of_four.h"

namespace rarefy::gpu {
namespace {

/// Rows of zeros with ones at the given places, checked as f16.
std::optional<std::string> broken(std::int64_t rows, std::int64_t cols,
                                  const std::vector<std::pair<std::int64_t, std::int64_t>>& ones,
                                  std::uint16_t zero = 0, std::uint16_t one = 0x3C00) {
  std::vector<std::uint16_t> values(static_cast<std::size_t>(rows * cols), zero);
  for (const auto& [row, col] : ones) values[static_cast<std::size_t>(row * cols + col)] = one;
  return breaks_two_of_four(DenseSource({values.data(), DType::kF16, rows, cols, cols}));
}

TEST(TwoOfFour, EveryGroupOfEveryRowCounts) {
  EXPECT_EQ(broken(3, 64, {}), std::nullopt);
  EXPECT_EQ(broken(1, 8, {{0, 2}, {0, 3}, {0, 4}, {0, 5}}), std::nullopt);  // Two and two.
  for (int mask = 0; mask < 16; ++mask) {
    for (const std::int64_t group : {0, 15, 16, 32}) {  // Of 33: two words of a mask and a bit.
      std::vector<std::pair<std::int64_t, std::int64_t>> ones;
      for (int i = 0; i < 4; ++i)
        if ((mask >> i & 1) != 0) ones.emplace_back(2, group * 4 + i);
      const std::optional<std::string> found = broken(5, 132, ones);
      ASSERT_EQ(found.has_value(), ones.size() > 2) << mask << " " << group;
      if (!found) continue;
      EXPECT_EQ(*found, "row 2 has " + std::to_string(ones.size()) + " nonzeros in columns " +
                            std::to_string(group * 4) + " to " + std::to_string(group * 4 + 3));
    }
  }
}

TEST(TwoOfFour, MinusZeroIsAZeroAndNaNIsNot) {
  constexpr std::uint16_t kMinusZero = 0x8000, kNaN = 0x7E00;
  EXPECT_EQ(broken(2, 16, {{1, 4}, {1, 6}}, kMinusZero), std::nullopt);
  EXPECT_TRUE(broken(2, 16, {{1, 4}, {1, 6}, {1, 7}}, kMinusZero, kNaN));
}

TEST(TwoOfFour, NamesTheFirstRowWhateverThreadFindsIt) {
  constexpr std::int64_t kRows = 3000, kCols = 260;  // Several panels.
  std::vector<std::pair<std::int64_t, std::int64_t>> ones;
  for (std::int64_t row = 517; row < kRows; row += 2)
    for (const std::int64_t col : {256, 257, 259}) ones.emplace_back(row, col);
  for (int i = 0; i < 5; ++i)
    EXPECT_EQ(broken(kRows, kCols, ones), "row 517 has 3 nonzeros in columns 256 to 259");
}

TEST(TwoOfFour, TakesWhatIsPrunedSo) {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    const TestWeight pruned({64, 192, Pattern::kTwoOfFour}, dtype);
    EXPECT_EQ(breaks_two_of_four(*pruned.source), std::nullopt);
    const TestWeight half({64, 192, Pattern::kUniform, 0.5}, dtype);
    EXPECT_NE(breaks_two_of_four(*half.source), std::nullopt);
  }
}

TEST(StructuredFamily, SaysWhatItDoesNotTake) {
  const auto reason = [](Problem problem, const cuda::DeviceFacts& device) {
    const Support support = structured_family().supports(problem, device);
    EXPECT_FALSE(support);
    return support.reason;
  };
  const cuda::DeviceFacts hopper = cuda::h100_facts();
  const Problem good{.m = 4096, .k = 8192, .n = 256};
  Problem p = good;
  p.weight = p.activations = p.output = DType::kF32;
  EXPECT_EQ(reason(p, hopper), "expected f16 or bf16, got f32");
  p = good;
  p.output = DType::kF32;
  EXPECT_EQ(reason(p, hopper), "expected activations and results of f16, got f16 and f32");
  p = good;
  p.layout = Layout::kFeatureMajor;
  EXPECT_EQ(reason(p, hopper), "takes activations token after token only");
  p = good;
  p.k = 4104;
  EXPECT_EQ(reason(p, hopper), "expected rows and columns in multiples of 16, got 4096x4104");
  for (const Problem& small :
       {Problem{.m = 2048, .k = 8192, .n = 256}, Problem{.m = 4096, .k = 2048, .n = 256},
        Problem{.m = 4096, .k = 8192, .n = 128}}) {
    EXPECT_TRUE(reason(small, hopper)
                    .starts_with("expected at least 4096 rows, 4096 columns and 256 tokens, got "));
  }
  cuda::DeviceFacts old = hopper;
  old.major = 7;
  old.minor = 5;
  EXPECT_EQ(reason(good, old), "sparse tensor cores need compute capability 8.0, found 7.5");
  if (const std::string& error = cuda::cusparselt_state().error; !error.empty()) {
    EXPECT_EQ(reason(good, hopper), error);
    EXPECT_NE(error.find("libcusparseLt.so.0"), std::string::npos) << error;
  } else {
    EXPECT_TRUE(structured_family().supports(good, hopper));
  }
}

TEST(StructuredFamily, RefusesWeightsThatAreNot2Of4) {
  const Problem problem{.m = 64, .k = 128, .n = 8};
  const auto reasons = [&](Pattern pattern, double density) {
    const TestWeight weight({64, 128, pattern, density}, DType::kF16);
    std::vector<std::string> found;
    for (const Candidate& candidate :
         structured_family().candidates(problem, weight.pattern, cuda::h100_facts()))
      found.push_back(candidate.refuses(weight.weight()));
    return found;
  };
  for (const std::string& reason : reasons(Pattern::kTwoOfFour, 0)) EXPECT_EQ(reason, "");
  for (const std::string& reason : reasons(Pattern::kZero, 0)) EXPECT_EQ(reason, "");
  const std::vector<std::string> full = reasons(Pattern::kFull, 1);
  ASSERT_FALSE(full.empty());
  for (const std::string& reason : full)
    EXPECT_EQ(reason, "2:4: row 0 has 4 nonzeros in columns 0 to 3, expected at most 2");
}

TEST(StructuredFamily, ChecksEachWeightForItself) {
  // The same candidates for one weight after the other: each is looked at for itself.
  const TestWeight pruned({64, 128, Pattern::kTwoOfFour}, DType::kF16);
  const TestWeight full({64, 128, Pattern::kFull}, DType::kF16);
  const std::vector<Candidate> candidates = structured_family().candidates(
      {.m = 64, .k = 128, .n = 8}, pruned.pattern, cuda::h100_facts());
  for (int i = 0; i < 2; ++i) {
    for (const Candidate& candidate : candidates) {
      EXPECT_EQ(candidate.refuses(pruned.weight()), "");
      EXPECT_NE(candidate.refuses(full.weight()), "");
    }
  }
}

class StructuredOnDevice : public FamilyOnDevice {
 protected:
  // Not every algorithm takes every shape; the library's first does (structured_products.h).
  static constexpr std::size_t kFirstAlone = 1000;

  StructuredOnDevice()
      : FamilyOnDevice(
            structured_family(),
            {.one_dtype = true, .may_refuse = true, .rounds = Rounds::kAheadOfEpilogue}) {}
  void SetUp() override {
    FamilyOnDevice::SetUp();
    if (IsSkipped()) return;
    if (const std::string& error = cuda::cusparselt_state().error; !error.empty())
      GTEST_SKIP() << error;
  }
};

TEST_F(StructuredOnDevice, TheFirstAlgorithmTakesEveryShape) {
  const cuda::Stream stream;
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const auto& [rows, cols] : {std::pair{16, 16}, {48, 112}, {512, 256}, {1024, 2048}}) {
      const TestWeight weight({rows, cols, Pattern::kTwoOfFour}, dtype);
      const Problem problem{
          .m = rows, .k = cols, .n = 24, .weight = dtype, .activations = dtype, .output = dtype};
      const std::vector<Candidate> candidates = candidates_of(weight, problem);
      const std::unique_ptr<Operator> op = candidates.front().build(weight.weight(), stream);
      const Case run(weight, problem);
      run.expect_close(run.device(*op, stream), candidates.front().name);
      const std::size_t dense = weight.bytes.size();
      EXPECT_LT(op->bytes(), dense + (std::size_t{64} << 20)) << rows << "x" << cols;
    }
  }
}

TEST_F(StructuredOnDevice, EveryAlgorithm) {
  const TestWeight weight({kSmallestStructured, kSmallestStructured, Pattern::kTwoOfFour},
                          DType::kBF16);
  check(weight, {.n = kFewestStructuredTokens, .output = DType::kBF16});
}

TEST_F(StructuredOnDevice, EveryNumberOfTokens) {
  const TestWeight weight({128, 512, Pattern::kTwoOfFour}, DType::kF16);
  for (const std::int64_t n : {1, 2, 5, 8, 9, 16, 17, 33, 64, 100, 257})
    check(weight, {.n = n}, kFirstAlone);
}

TEST_F(StructuredOnDevice, OneOperatorServesAnyNumberOfTokens) {
  const cuda::Stream stream;
  const TestWeight weight({128, 512, Pattern::kTwoOfFour}, DType::kF16);
  Problem problem{.m = 128, .k = 512, .n = 16};
  const std::unique_ptr<Operator> op =
      candidates_of(weight, problem).front().build(weight.weight(), stream);
  for (const std::int64_t n : {16, 3, 200, 7, 8, 1}) {
    problem.n = n;
    const Case run(weight, problem);
    run.expect_close(run.device(*op, stream), std::to_string(n) + " tokens");
  }
}

TEST_F(StructuredOnDevice, Epilogues) {
  const TestWeight weight({96, 640, Pattern::kTwoOfFour}, DType::kBF16);
  std::vector<Epilogue> all(std::begin(kSomeEpilogues), std::end(kSomeEpilogues));
  all.push_back({Activation::kNone, false, true});
  all.push_back({Activation::kNone, true, false});
  for (const Epilogue& e : all) {
    for (const std::int64_t n : {5, 16})
      check(weight,
            {.n = n,
             .output = DType::kBF16,
             .activation = e.activation,
             .bias = e.bias,
             .residual = e.residual},
            kFirstAlone);
  }
}

TEST_F(StructuredOnDevice, NaNReachesItsToken) {
  const TestWeight weight({64, 128, Pattern::kTwoOfFour}, DType::kF16);
  const cuda::Stream stream;
  const Problem problem{.m = 64, .k = 128, .n = 8};
  const Case run(weight, problem, std::numeric_limits<float>::quiet_NaN());
  const std::unique_ptr<Operator> op =
      candidates_of(weight, problem).front().build(weight.weight(), stream);
  const std::vector<float> result = run.device(*op, stream);
  const auto is_nan = [](float x) { return std::isnan(x); };
  const auto reached = std::count_if(result.begin(), result.end(), is_nan);
  EXPECT_GT(reached, 0);
  EXPECT_LE(reached, problem.m);  // Of one token, whose zeros may or may not be multiplied.
}

TEST_F(StructuredOnDevice, RowsWithGapsAndOddAddresses) {
  const cuda::Stream stream;
  constexpr std::int64_t kRows = 32, kCols = 64, kMost = 16, kRoom = 128;
  const TestWeight weight({kRows, kCols, Pattern::kTwoOfFour}, DType::kF16);
  for (const bool residual : {false, true}) {
    const Problem problem{.m = kRows, .k = kCols, .n = kMost, .residual = residual};
    const std::unique_ptr<Operator> op =
        candidates_of(weight, problem).front().build(weight.weight(), stream);
    const auto run = [&](std::int64_t n, std::int64_t b_stride, std::int64_t c_stride,
                         std::size_t offset) {
      std::vector<std::uint16_t> b(offset + static_cast<std::size_t>(n * kRoom), 0x7E00);  // NaN
      std::vector<std::uint16_t> c = b;
      for (std::int64_t t = 0; t < n; ++t) {
        for (std::int64_t k = 0; k < kCols; ++k)
          b[offset + static_cast<std::size_t>(t * b_stride + k)] =
              static_cast<std::uint16_t>(0x3000 + (t * 37 + k * 11) % 0x0C00);
        for (std::int64_t m = 0; m < kRows; ++m)
          c[offset + static_cast<std::size_t>(t * c_stride + m)] = 0x3C00;  // The residual: 1.
      }
      const cuda::DeviceBuffer device_b = cuda::upload<std::uint16_t>(stream, b);
      const cuda::DeviceBuffer device_c = cuda::upload<std::uint16_t>(stream, c);
      const cuda::abi::CUdeviceptr to = device_c.address() + 2 * offset;
      op->enqueue(stream, {.b = device_b.address() + 2 * offset,
                           .b_stride = b_stride,
                           .c = to,
                           .c_stride = c_stride,
                           .residual = residual ? to : 0,
                           .residual_stride = c_stride,
                           .n = n});
      const std::vector<std::uint16_t> raw = cuda::download<std::uint16_t>(stream, device_c);
      std::vector<std::uint16_t> result;
      for (std::int64_t t = 0; t < n; ++t) {
        const auto row = raw.begin() + static_cast<std::ptrdiff_t>(offset) + t * c_stride;
        result.insert(result.end(), row, row + kRows);
        if (c_stride > kRows) {
          EXPECT_EQ(row[kRows], 0x7E00) << "written behind a row";
        }
      }
      return result;
    };
    for (const std::int64_t n : {std::int64_t{5}, kMost}) {
      const std::vector<std::uint16_t> plain = run(n, kCols, kRows, 0);
      EXPECT_EQ(run(n, kCols + 8, kRows + 8, 0), plain) << n;
      EXPECT_EQ(run(n, kCols + 3, kRows + 1, 0), plain) << n;
      EXPECT_EQ(run(n, kCols, kRows, 1), plain) << n;
      EXPECT_EQ(run(n, kCols + 8, kRows + 5, 3), plain) << n;
    }
  }
}

TEST_F(StructuredOnDevice, TheSearchMeasuresItOrSaysWhyNot) {
  const cuda::Stream stream;
  constexpr std::int64_t kSize = kSmallestStructured;
  const Problem problem{.m = kSize, .k = kSize, .n = kFewestStructuredTokens};
  const SearchOptions options{.only = "structured", .use_cache = false};
  const TestWeight pruned({kSize, kSize, Pattern::kTwoOfFour}, DType::kF16);
  const Choice choice = choose(pruned.weight(), problem, stream, options);
  EXPECT_TRUE(choice.name.starts_with("structured.2of4.cusparselt.")) << choice.name;
  EXPECT_GT(choice.time_us, 0);
  const TestWeight half({kSize, kSize, Pattern::kUniform, 0.5}, DType::kF16);
  try {
    (void)choose(half.weight(), problem, stream, options);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("expected at most 2"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace rarefy::gpu
