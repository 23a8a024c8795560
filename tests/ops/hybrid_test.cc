// SpMM on hybrid weights that have blocks of every kind, over several ranges of K, rounds of strips
// and turns of tokens: whole numbers, so that every sum is exact wherever the parts meet.
#include "formats/hybrid.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "rarefy/cpu.h"
#include "rarefy/spmm.h"

namespace rarefy {
namespace {

constexpr std::int64_t kRows = 301;
constexpr std::int64_t kCols = 2500;

/// Blocks of 64×64 that are empty, thin, half full or full; every 7th row and 5th column is dead.
std::vector<float> mixed_weight() {
  std::mt19937 random(11);
  std::vector<float> w(static_cast<std::size_t>(kRows * kCols));
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t c = 0; c < kCols; ++c) {
      constexpr unsigned kPercent[] = {0, 2, 50, 100, 0, 1};
      const unsigned percent = kPercent[(r / 64 * 3 + c / 64) % 6];
      const bool dead = r % 7 == 3 || c % 5 == 2;
      const unsigned drawn = random();
      if (!dead && drawn % 100 < percent)
        w[static_cast<std::size_t>(r * kCols + c)] = static_cast<float>(drawn / 100 % 7) - 3.5F;
    }
  }
  return w;
}

class HybridSpmm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (active_isa() < Isa::kAmx) GTEST_SKIP() << "this CPU has no AMX";
    kernel_ = find_spmm_kernel("hybrid.amx");
    ASSERT_NE(kernel_, nullptr);
  }
  [[nodiscard]] MatrixPtr packed(const FormatSpec& spec) const {
    return pack(DenseSource({w_.data(), DType::kF32, kRows, kCols, kCols}), spec, DType::kBF16);
  }
  const std::vector<float> w_ = mixed_weight();
  const SpmmKernel* kernel_ = nullptr;
};

const FormatSpec kSpecs[] = {format::hybrid(64, 64, 0),
                             format::hybrid(64, 64, 102),
                             format::hybrid(32, 32, 300, true),
                             format::hybrid(128, 64, 300, false, true),
                             format::hybrid(64, 128, 200, true, true),
                             format::hybrid(32, 32, 1025, true, true)};

TEST_F(HybridSpmm, AddsWholeNumbersExactlyForAnyNumberOfThreads) {
  ThreadPool one(1);
  ThreadPool five(5);
  std::mt19937 random(3);
  const MatrixPtr dense = packed(format::kDense);
  for (const std::int64_t n : {17, 33, 270}) {
    std::vector<float> b(static_cast<std::size_t>(n * kCols));
    for (float& x : b) x = static_cast<float>(random() % 9) - 4;
    std::vector<double> expected(static_cast<std::size_t>(n * kRows));
    SpmmArgs args;
    args.b = matrix_ref(b.data(), n, kCols);
    args.c = {expected.data(), DType::kF64, n, kRows, kRows};
    spmm_reference(*dense, args);
    for (const FormatSpec& spec : kSpecs) {
      const MatrixPtr a = packed(spec);
      for (ThreadPool* pool : {&one, &five}) {
        std::vector<float> c(expected.size(), -1.0F);
        args.c = matrix_ref(c.data(), n, kRows);
        spmm(*a, args, *pool, kernel_);
        for (std::size_t i = 0; i < c.size(); ++i)
          ASSERT_EQ(c[i], static_cast<float>(expected[i]))
              << spec.name() << ", n " << n << ", token " << i / kRows << ", row " << i % kRows;
      }
    }
  }
}

/// One epilogue for the sums of both parts, with bf16 activations and results.
TEST_F(HybridSpmm, AppliesTheEpilogueToFinishedSums) {
  constexpr std::int64_t kTokens = 40;
  std::mt19937 random(4);
  std::vector<BFloat16> b(static_cast<std::size_t>(kTokens * kCols));
  for (BFloat16& x : b) x = convert<BFloat16>(static_cast<float>(random() % 9) - 4);
  std::vector<float> bias(kRows);
  for (float& x : bias) x = static_cast<float>(random() % 9) - 4;
  std::vector<BFloat16> residual(static_cast<std::size_t>(kTokens * kRows));
  for (BFloat16& x : residual) x = convert<BFloat16>(static_cast<float>(random() % 9) - 4);
  std::vector<double> sums(residual.size());
  SpmmArgs plain;
  plain.b = {b.data(), DType::kBF16, kTokens, kCols, kCols};
  plain.c = {sums.data(), DType::kF64, kTokens, kRows, kRows};
  spmm_reference(*packed(format::kDense), plain);
  for (const FormatSpec& spec : kSpecs) {
    const MatrixPtr a = packed(spec);
    SpmmArgs args;
    args.b = {b.data(), DType::kBF16, kTokens, kCols, kCols};
    args.bias = bias.data();
    args.activation = Activation::kRelu;
    args.residual = {residual.data(), DType::kBF16, kTokens, kRows, kRows};
    std::vector<BFloat16> c(residual.size());
    args.c = {c.data(), DType::kBF16, kTokens, kRows, kRows};
    spmm(*a, args, default_pool(), kernel_);
    for (std::size_t i = 0; i < c.size(); ++i) {
      const float sum = static_cast<float>(sums[i]) + bias[i % kRows];
      const float want = std::max(sum, 0.0F) + to_float(residual[i]);
      ASSERT_EQ(c[i].bits, convert<BFloat16>(want).bits) << spec.name() << " at " << i;
    }
  }
}

/// More tokens than are multiplied at once: every kernel that takes them in turns.
TEST_F(HybridSpmm, TakesManyTokensInTurns) {
  constexpr std::int64_t kTokens = 530;
  std::vector<float> b(static_cast<std::size_t>(kTokens * kCols));
  std::mt19937 random(5);
  for (float& x : b) x = static_cast<float>(random() % 9) - 4;
  std::vector<float> expected(static_cast<std::size_t>(kTokens * kRows));
  SpmmArgs args;
  args.b = matrix_ref(b.data(), kTokens, kCols);
  args.c = matrix_ref(expected.data(), kTokens, kRows);
  spmm(*packed(format::kDense), args);
  for (const auto& [format, name] :
       {std::pair<FormatSpec, const char*>{format::hybrid(64, 64, 102), "hybrid.amx"},
        {format::kBitmap, "bitmap.amx.panels"},
        {format::dense_tiles(16, 32), "dense_tiles.amx"},
        {format::bsr(32, 32), "bsr.amx"},
        {format::bsr(16, 64), "bsr.amx"},
        {format::kSell16, "sell.amx.panels"}}) {
    const SpmmKernel* kernel = find_spmm_kernel(name);
    ASSERT_NE(kernel, nullptr) << name;
    const MatrixPtr a = packed(format);
    for (const Precision precision : {Precision::kExact, Precision::kBf16}) {
      std::vector<float> c(expected.size(), -1.0F);
      args.c = matrix_ref(c.data(), kTokens, kRows);
      args.precision = precision;
      spmm(*a, args, default_pool(), kernel);
      for (std::size_t i = 0; i < c.size(); ++i)
        ASSERT_EQ(c[i], expected[i]) << name << " on " << format.name() << " at " << i;
    }
  }
}

/// Every path with nothing at all, with one value in the last corner, and with no zero.
TEST_F(HybridSpmm, TakesEmptyAndFullWeights) {
  // Neither divides the blocks; the last K is one range of activations and a bit.
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {33, 31}, {130, 1300}}) {
    const auto count = static_cast<std::size_t>(rows * cols);
    std::vector<float> corner(count, 0.0F);
    corner.back() = 2.0F;
    for (const std::vector<float>& w :
         {std::vector<float>(count, 0.0F), corner, std::vector<float>(count, 1.0F)}) {
      const DenseSource source({w.data(), DType::kF32, rows, cols, cols});
      const MatrixPtr dense = pack(source, format::kDense, DType::kBF16);
      for (const std::int64_t n : {17, 260}) {
        std::vector<float> b(static_cast<std::size_t>(n * cols));
        for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 7) - 3;
        std::vector<double> expected(static_cast<std::size_t>(n * rows));
        SpmmArgs args;
        args.b = matrix_ref(b.data(), n, cols);
        args.c = {expected.data(), DType::kF64, n, rows, rows};
        spmm_reference(*dense, args);
        for (const FormatSpec& spec : kSpecs) {
          const MatrixPtr a = pack(source, spec, DType::kBF16);
          a->validate();
          std::vector<float> c(expected.size(), -1.0F);
          args.c = matrix_ref(c.data(), n, rows);
          spmm(*a, args, default_pool(), kernel_);
          for (std::size_t i = 0; i < c.size(); ++i)
            ASSERT_EQ(c[i], static_cast<float>(expected[i]))
                << spec.name() << ", " << rows << "x" << cols << ", n " << n << ", at " << i;
        }
      }
    }
  }
}

TEST_F(HybridSpmm, SharesAnEmptyWeightAmongManyThreads) {
  const std::vector<float> zero(static_cast<std::size_t>(64 * 96));
  const MatrixPtr a = pack(DenseSource({zero.data(), DType::kF32, 64, 96, 96}),
                           format::hybrid(64, 64, 10, true, true), DType::kBF16);
  const std::vector<float> b(std::size_t{20} * 96, 1.0F);
  std::vector<float> c(std::size_t{20} * 64, -1.0F);
  SpmmArgs args;
  args.b = matrix_ref(b.data(), 20, 96);
  args.c = matrix_ref(c.data(), 20, 64);
  ThreadPool seven(7);
  spmm(*a, args, seven, kernel_);
  for (const float x : c) ASSERT_EQ(x, 0.0F);
}

}  // namespace
}  // namespace rarefy
