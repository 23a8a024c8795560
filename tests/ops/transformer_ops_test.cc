// Norm, RoPE, SwiGLU, softmax and embedding against their double versions, on every instruction
// set, at widths around and between the vector lengths.
#include "rarefy/transformer_ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "ops/transformer_support.h"
#include "rarefy/error.h"

namespace rarefy {
namespace {

using testing::expect_close;
using testing::ForEachIsa;
using testing::random_floats;

constexpr float kInf = std::numeric_limits<float>::infinity();
const std::vector<std::int64_t> kWidths{1, 2, 7, 16, 17, 63, 64, 80, 96, 129, 2048};

using TransformerOps = ForEachIsa;

TEST_P(TransformerOps, RmsNorm) {
  for (std::int64_t width : kWidths) {
    for (std::int64_t rows : {0, 1, 3, 40}) {
      const auto x = random_floats(rows * width, 1, 3.0F);
      const auto weight = random_floats(width, 2, 1.0F);
      std::vector<float> y(x.size());
      std::vector<float> expected(x.size());
      rms_norm(matrix_ref(x.data(), rows, width), weight, 1e-5F, matrix_ref(y.data(), rows, width));
      reference::rms_norm(matrix_ref(x.data(), rows, width), weight, 1e-5F,
                          matrix_ref(expected.data(), rows, width));
      // Up to 2048 f32 additions in 64 partial sums: far below 1e-6 relative.
      expect_close(y, expected, 2e-6F);
    }
  }
}

TEST_P(TransformerOps, RmsNormInPlaceAndStrided) {
  auto x = random_floats(5 * 40, 3, 1.0F);
  const auto weight = random_floats(33, 4, 1.0F);
  std::vector<float> expected(x);
  const MatrixRef view{x.data(), DType::kF32, 5, 33, 40};
  const MatrixRef expected_view{expected.data(), DType::kF32, 5, 33, 40};
  reference::rms_norm(view, weight, 1e-6F, expected_view);
  rms_norm(view, weight, 1e-6F, view);
  expect_close(x, expected, 2e-6F);  // what lies between the rows is untouched
}

TEST_P(TransformerOps, RmsNormOfZerosIsZeroAndNanSpreadsInItsRowOnly) {
  std::vector<float> x(3 * 20, 0.0F);
  x[25] = std::nanf("");
  const std::vector<float> weight(20, 1.0F);
  rms_norm(matrix_ref(x.data(), 3, 20), weight, 1e-5F, matrix_ref(x.data(), 3, 20));
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (i / 20 == 1) {
      EXPECT_TRUE(std::isnan(x[i]));
    } else {
      EXPECT_EQ(x[i], 0.0F);
    }
  }
}

TEST_P(TransformerOps, Rope) {
  for (std::int64_t half : {1, 8, 20, 32, 64}) {
    std::vector<double> inv_freq;
    for (std::int64_t i = 0; i < half; ++i)
      inv_freq.push_back(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half)));
    const RopeTable table(inv_freq, 40);
    auto x = random_floats(7 * 3 * 2 * half, 5, 1.0F);
    auto expected = x;
    rope(matrix_ref(x.data(), 7, 3 * 2 * half), 3, table, 33);
    reference::rope(matrix_ref(expected.data(), 7, 3 * 2 * half), 3, table, 33);
    expect_close(x, expected, 1e-6F);
    EXPECT_THROW(rope(matrix_ref(x.data(), 7, 3 * 2 * half), 3, table, 34), Error);
  }
}

TEST_P(TransformerOps, RopeKeepsLengthsAndRelativeAngles) {
  const std::vector<double> inv_freq{1.0, 0.1, 0.01, 0.001};
  const RopeTable table(inv_freq, 64);
  const auto dot_at = [&](std::int64_t p, std::int64_t q) {
    auto a = random_floats(8, 6, 1.0F);
    auto b = random_floats(8, 7, 1.0F);
    rope(matrix_ref(a.data(), 1, 8), 1, table, p);
    rope(matrix_ref(b.data(), 1, 8), 1, table, q);
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  EXPECT_NEAR(dot_at(0, 9), dot_at(50, 59), 1e-5);
  EXPECT_NEAR(dot_at(20, 13), dot_at(63, 56), 1e-5);
}

TEST_P(TransformerOps, SwiGlu) {
  for (std::int64_t width : kWidths) {
    const auto gate = random_floats(3 * width, 8, 20.0F);
    auto up = random_floats(3 * width, 9, 2.0F);
    std::vector<float> expected(up.size());
    reference::swiglu(matrix_ref(gate.data(), 3, width), matrix_ref(up.data(), 3, width),
                      matrix_ref(expected.data(), 3, width));
    swiglu(matrix_ref(gate.data(), 3, width), matrix_ref(up.data(), 3, width),
           matrix_ref(up.data(), 3, width));
    expect_close(up, expected, 1e-6F);  // exp within 2 ulp, four more roundings
  }
}

TEST_P(TransformerOps, Softmax) {
  for (std::int64_t width : kWidths) {
    auto x = random_floats(4 * width, 10, 30.0F);
    for (std::int64_t i = 0; i < width; ++i) x[static_cast<std::size_t>(width + i)] = -kInf;
    if (width > 3) x[static_cast<std::size_t>(2 * width + 1)] = -kInf;
    std::vector<float> expected(x.size());
    reference::softmax(matrix_ref(x.data(), 4, width), matrix_ref(expected.data(), 4, width));
    softmax(matrix_ref(x.data(), 4, width), matrix_ref(x.data(), 4, width));
    expect_close(x, expected, 2e-6F);
    for (std::int64_t i = 0; i < width; ++i)
      EXPECT_EQ(x[static_cast<std::size_t>(width + i)], 0.0F);
  }
}

TEST_P(TransformerOps, SoftmaxShowsNan) {
  std::vector<float> x{-kInf, std::nanf(""), -kInf, -kInf, -kInf};
  softmax(matrix_ref(x.data(), 1, 5), matrix_ref(x.data(), 1, 5));
  EXPECT_TRUE(std::isnan(x[1]));
}

TEST_P(TransformerOps, TheSameForAnyNumberOfThreads) {
  const std::int64_t rows = 40;
  const std::int64_t width = 1000;  // enough elements for all threads to be woken
  const auto x = random_floats(rows * width, 11, 4.0F);
  const auto weight = random_floats(width, 12, 1.0F);
  std::vector<std::vector<float>> results;
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    std::vector<float> y(x.size());
    const auto in = matrix_ref(x.data(), rows, width);
    const auto out = matrix_ref(y.data(), rows, width);
    rms_norm(in, weight, 1e-5F, out, pool);
    swiglu(out, in, out, pool);
    softmax(out, out, pool);
    results.push_back(y);
  }
  for (const auto& result : results) EXPECT_EQ(result, results[0]);
}

INSTANTIATE_TEST_SUITE_P(AllIsas, TransformerOps, ::testing::ValuesIn(testing::available_isas()),
                         testing::isa_name);

TEST(Embedding, ConvertsRowsOfAnyDtypeAndChecksIds) {
  const auto rows = random_floats(10 * 24, 13, 1.0F);
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<std::byte> table(rows.size() * size_of(dtype));
    convert_elements(rows.data(), DType::kF32, table.data(), dtype, rows.size());
    std::vector<float> expected(rows.size());
    convert_elements(table.data(), dtype, expected.data(), DType::kF32, rows.size());
    const DenseSource source({table.data(), dtype, 10, 24, 24});
    const std::vector<std::int32_t> ids{9, 0, 3, 3};
    std::vector<float> y(4 * 24);
    embedding(source, ids, matrix_ref(y.data(), 4, 24));
    for (std::size_t t = 0; t < 4; ++t) {
      for (std::size_t i = 0; i < 24; ++i)
        EXPECT_EQ(y[t * 24 + i], expected[static_cast<std::size_t>(ids[t]) * 24 + i]);
    }
    // A source whose rows do not lie dense: padded to 24 of 20.
    const DenseSource strided({table.data(), dtype, 10, 20, 24});
    std::vector<float> narrow(20);
    embedding(strided, std::vector<std::int32_t>{7}, matrix_ref(narrow.data(), 1, 20));
    for (std::size_t i = 0; i < 20; ++i) EXPECT_EQ(narrow[i], expected[7 * 24 + i]);
    EXPECT_THROW(embedding(source, std::vector<std::int32_t>{10}, matrix_ref(y.data(), 1, 24)),
                 Error);
    EXPECT_THROW(embedding(source, std::vector<std::int32_t>{-1}, matrix_ref(y.data(), 1, 24)),
                 Error);
  }
}

TEST(TransformerOpsErrors, SayOperatorArgumentExpectedFound) {
  std::vector<float> x(8);
  const std::vector<float> weight(3);
  try {
    rms_norm(matrix_ref(x.data(), 2, 4), weight, 1e-5F, matrix_ref(x.data(), 2, 4));
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "rms_norm: weight: expected 4 values, got 3");
  }
  try {
    swiglu(matrix_ref(x.data(), 2, 4), matrix_ref(x.data(), 1, 4), matrix_ref(x.data(), 2, 4));
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "swiglu: up: expected 2x4, got 1x4");
  }
}

}  // namespace
}  // namespace rarefy
