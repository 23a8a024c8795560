// f16 weights on AMX: the split in two bf16 loses nothing, subnormal and extreme values included.
// spmm_test runs the same kernels on what all formats share.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "rarefy/cpu.h"
#include "rarefy/spmm.h"

namespace rarefy {
namespace {

struct Kernel {
  const char* name;
  FormatSpec spec;
};
const Kernel kKernels[] = {{"dense_tiles.amx.halves", format::dense_tiles(16, 32)},
                           {"bitmap.amx.halves", format::kBitmap}};

class HalfGemm : public ::testing::TestWithParam<Kernel> {
 protected:
  void SetUp() override {
    if (active_isa() < Isa::kAmx) GTEST_SKIP() << "this CPU has no AMX";
    kernel_ = find_spmm_kernel(GetParam().name);
    ASSERT_NE(kernel_, nullptr);
  }
  [[nodiscard]] MatrixPtr pack_weight(const std::vector<float>& values, std::int64_t rows,
                                      std::int64_t cols) const {
    return pack(DenseSource({values.data(), DType::kF32, rows, cols, cols}), GetParam().spec,
                DType::kF16);
  }
  [[nodiscard]] std::vector<float> run(const Matrix& a, const std::vector<float>& b,
                                       std::int64_t tokens, ThreadPool& pool,
                                       Precision precision = Precision::kExact) const {
    std::vector<float> c(static_cast<std::size_t>(tokens * a.rows()), -1.0F);
    SpmmArgs args;
    args.b = matrix_ref(b.data(), tokens, a.cols());
    args.c = matrix_ref(c.data(), tokens, a.rows());
    args.precision = precision;
    spmm(a, args, pool, kernel_);
    return c;
  }
  const SpmmKernel* kernel_ = nullptr;
};

/// Every finite f16 once, on a diagonal: one product a sum, by an activation that bf16 holds.
TEST_P(HalfGemm, HoldsEveryHalfExactly) {
  constexpr std::int64_t kSide = 512;
  for (std::uint32_t first = 0; first < 0x10000; first += kSide) {
    if ((first & 0x7fff) >= 0x7c00) continue;
    std::vector<Float16> diagonal(kSide);
    std::vector<float> weight(kSide * kSide);
    for (std::uint32_t i = 0; i < kSide; ++i) {
      diagonal[i].bits = static_cast<std::uint16_t>(first + i);
      weight[i * (kSide + 1)] = to_float(diagonal[i]);
    }
    std::vector<float> b(2 * kSide, 1.0F);
    for (std::int64_t k = 0; k < kSide; ++k) b[static_cast<std::size_t>(kSide + k)] = -2.0F;
    const std::vector<float> got = run(*pack_weight(weight, kSide, kSide), b, 2, default_pool());
    for (std::uint32_t i = 0; i < kSide; ++i) {
      ASSERT_EQ(got[i], to_float(diagonal[i])) << std::hex << first + i;
      ASSERT_EQ(got[kSide + i], -2 * to_float(diagonal[i])) << std::hex << first + i;
    }
  }
}

TEST_P(HalfGemm, MatchesTheReference) {
  struct Shape {
    std::int64_t rows, cols, tokens;
  };
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const Shape& s :
       {Shape{1, 1, 2}, Shape{37, 75, 17}, Shape{70, 2100, 40}, Shape{150, 96, 5}}) {
    std::vector<float> weight(static_cast<std::size_t>(s.rows * s.cols));
    for (float& w : weight)
      if (random() % 3 != 0) w = to_float(convert<Float16>(normal(random)));
    std::vector<float> b(static_cast<std::size_t>(s.tokens * s.cols));
    for (float& x : b) x = normal(random);
    const MatrixPtr a = pack_weight(weight, s.rows, s.cols);
    ThreadPool one(1);
    const std::vector<float> got = run(*a, b, s.tokens, one);
    std::vector<double> want(got.size());
    SpmmArgs args;
    args.b = matrix_ref(b.data(), s.tokens, s.cols);
    args.c = MatrixRef{want.data(), DType::kF64, s.tokens, s.rows, s.rows};
    spmm_reference(*a, args);
    for (std::int64_t t = 0; t < s.tokens; ++t) {
      for (std::int64_t r = 0; r < s.rows; ++r) {
        double magnitude = 0;
        for (std::int64_t k = 0; k < s.cols; ++k)
          magnitude += std::abs(weight[static_cast<std::size_t>(r * s.cols + k)] *
                                b[static_cast<std::size_t>(t * s.cols + k)]);
        // Activations in two bf16 parts lose 2^-16 of themselves, sums γ of four terms a column.
        const double bound = magnitude * (0x1p-15 + static_cast<double>(s.cols) * 0x1p-22) + 1e-30;
        const auto at = static_cast<std::size_t>(t * s.rows + r);
        ASSERT_LE(std::abs(got[at] - want[at]), bound) << s.rows << "x" << s.cols << " row " << r;
      }
    }
    for (const int threads : {2, 5}) {
      ThreadPool pool(threads);
      const std::vector<float> again = run(*a, b, s.tokens, pool);
      EXPECT_EQ(std::memcmp(again.data(), got.data(), got.size() * sizeof(float)), 0) << threads;
    }
  }
}

/// An infinite weight stays infinite: the part behind it is zero, not NaN. (Activations in two
/// parts do make NaN of it, as they do with bf16 weights: the second part may be zero.)
TEST_P(HalfGemm, KeepsInfiniteWeights) {
  std::vector<float> weight(20 * 33, 1.0F);
  weight[7 * 33 + 32] = std::numeric_limits<float>::infinity();
  const std::vector<float> b(3 * 33, 1.0F);
  const std::vector<float> got =
      run(*pack_weight(weight, 20, 33), b, 3, default_pool(), Precision::kBf16);
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (i % 20 == 7) {
      EXPECT_EQ(got[i], std::numeric_limits<float>::infinity());
    } else {
      EXPECT_EQ(got[i], 33.0F);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, HalfGemm, ::testing::ValuesIn(kKernels), [](const auto& kernel) {
  return std::string(kernel.param.spec.format == Format::kBitmap ? "bitmap" : "dense");
});

}  // namespace
}  // namespace rarefy
