// Products through the C API against the reference in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "rarefy/c.h"
#include "rarefy/spmm.h"

namespace rarefy {
namespace {

constexpr std::int64_t kRows = 70;
constexpr std::int64_t kCols = 130;
constexpr std::int64_t kN = 3;
constexpr std::int64_t kPad = 5;  // of every row, filled with a value that must not be touched

struct Operands {
  std::vector<float> weight, b, bias, residual;
};

Operands operands(bool token_major) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  Operands out;
  out.weight.resize(kRows * kCols);
  for (float& w : out.weight) {
    w = normal(random);
    if (std::abs(w) < 1) w = 0;
  }
  const std::int64_t b_rows = token_major ? kN : kCols;
  const std::int64_t b_cols = token_major ? kCols : kN;
  const std::int64_t c_rows = token_major ? kN : kRows;
  const std::int64_t c_cols = token_major ? kRows : kN;
  out.b.resize(b_rows * (b_cols + kPad));
  out.residual.resize(c_rows * (c_cols + kPad));
  out.bias.resize(kRows);
  for (auto* values : {&out.b, &out.residual, &out.bias}) {
    for (float& v : *values) v = normal(random);
  }
  return out;
}

std::vector<std::uint32_t> bits(const std::vector<float>& values) {
  std::vector<std::uint32_t> out;
  out.reserve(values.size());
  for (const float v : values) out.push_back(std::bit_cast<std::uint32_t>(v));
  return out;
}

class CApiSpmm : public ::testing::TestWithParam<std::tuple<const char*, bool>> {};

TEST_P(CApiSpmm, AgreesWithTheReference) {
  const auto [format, token_major] = GetParam();
  const Operands in = operands(token_major);
  const std::int64_t b_stride = (token_major ? kCols : kN) + kPad;
  const std::int64_t c_cols = token_major ? kRows : kN;
  const std::int64_t c_rows = token_major ? kN : kRows;
  const std::int64_t c_stride = c_cols + kPad;

  rarefy_matrix* matrix = nullptr;
  {
    std::vector<float> copy = in.weight;
    ASSERT_EQ(rarefy_matrix_pack(copy.data(), RAREFY_F32, kRows, kCols, 0, format, &matrix),
              RAREFY_OK)
        << rarefy_last_error();
    copy.assign(copy.size(), NAN);  // The matrix keeps nothing of it.
  }
  rarefy_matrix_description info = {sizeof(info)};
  ASSERT_EQ(rarefy_matrix_info(matrix, &info), RAREFY_OK);
  EXPECT_EQ(info.nnz,
            std::count_if(in.weight.begin(), in.weight.end(), [](float w) { return w != 0; }));
  if (format != nullptr) {
    EXPECT_STREQ(info.format, format);
  }

  constexpr float kUntouched = -123;
  std::vector<float> c(c_rows * c_stride, kUntouched);
  rarefy_spmm_args args = {sizeof(args)};
  args.n = kN;
  args.b = in.b.data();
  args.b_row_stride = b_stride;
  args.c = c.data();
  args.c_row_stride = c_stride;
  args.bias = in.bias.data();
  args.residual = in.residual.data();
  args.activation = RAREFY_ACTIVATION_SILU;
  args.layout = token_major ? RAREFY_TOKEN_MAJOR : RAREFY_FEATURE_MAJOR;
  ASSERT_EQ(rarefy_spmm(matrix, &args), RAREFY_OK) << rarefy_last_error();
  rarefy_matrix_free(matrix);

  std::vector<double> expected(c_rows * c_cols);
  SpmmArgs reference;
  reference.layout = token_major ? Layout::kTokenMajor : Layout::kFeatureMajor;
  reference.b = {in.b.data(), DType::kF32, token_major ? kN : kCols, token_major ? kCols : kN,
                 b_stride};
  reference.c = {expected.data(), DType::kF64, c_rows, c_cols, c_cols};
  reference.bias = in.bias.data();
  reference.activation = Activation::kSilu;
  spmm_reference(DenseSource({in.weight.data(), DType::kF32, kRows, kCols, kCols}), reference);
  for (std::int64_t r = 0; r < c_rows; ++r) {
    for (std::int64_t col = 0; col < c_stride; ++col) {
      const float got = c[r * c_stride + col];
      if (col >= c_cols) {
        EXPECT_EQ(got, kUntouched);
        continue;
      }
      // Activations keep at least 16 bits of mantissa: 2^-16 of each of the some 40 products, whose
      // sizes add up to less than 100.
      const double want = expected[r * c_cols + col] + in.residual[r * c_stride + col];
      EXPECT_NEAR(got, want, 2e-3) << "row " << r << ", column " << col;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CApiSpmm,
                         ::testing::Combine(::testing::Values("dense", "csr", "csr16", "bitmap",
                                                              "delta8", "bsr16x32", nullptr),
                                            ::testing::Bool()));

TEST(CApiMatrix, TakesEmptyShapes) {
  rarefy_matrix* matrix = nullptr;
  ASSERT_EQ(rarefy_matrix_pack(nullptr, RAREFY_BF16, 0, 0, 0, "csr", &matrix), RAREFY_OK)
      << rarefy_last_error();
  rarefy_spmm_args args = {sizeof(args)};
  EXPECT_EQ(rarefy_spmm(matrix, &args), RAREFY_OK) << rarefy_last_error();
  rarefy_matrix_free(matrix);
}

TEST(CApiMatrix, GivesTheSameBitsForAnyNumberOfThreads) {
  const Operands in = operands(true);
  std::vector<std::vector<float>> results;
  std::vector<rarefy_matrix*> matrices;
  for (const int threads : {1, 3, 0}) {
    ASSERT_EQ(rarefy_set_threads(threads), RAREFY_OK) << rarefy_last_error();
    matrices.push_back(nullptr);
    ASSERT_EQ(rarefy_matrix_pack(in.weight.data(), RAREFY_F32, kRows, kCols, 0, "bitmap",
                                 &matrices.back()),
              RAREFY_OK);
  }
  // The threads of the first matrices live on although others were set since.
  for (rarefy_matrix* matrix : matrices) {
    results.emplace_back(kN * kRows);
    rarefy_spmm_args args = {sizeof(args)};
    args.n = kN;
    args.b = in.b.data();
    args.b_row_stride = kCols + kPad;
    args.c = results.back().data();
    ASSERT_EQ(rarefy_spmm(matrix, &args), RAREFY_OK) << rarefy_last_error();
    EXPECT_EQ(bits(results.back()), bits(results[0]));
    rarefy_matrix_free(matrix);
  }
}

}  // namespace
}  // namespace rarefy
