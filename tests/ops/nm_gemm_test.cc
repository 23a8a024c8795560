// N:M weights for many tokens, pattern by pattern: half-empty groups, ragged edges, several ranges
// of K, infinities. spmm_test runs the same kernel on what all formats share.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "rarefy/cpu.h"
#include "rarefy/spmm.h"

namespace rarefy {
namespace {

struct Problem {
  int n, m;
  std::int64_t rows, cols, tokens;
};

/// At most n of every m columns; a fifth of the places kept stays empty.
std::vector<float> make_weight(const Problem& p, std::mt19937& random) {
  std::vector<float> values(static_cast<std::size_t>(p.rows * p.cols));
  std::normal_distribution<float> normal;
  std::vector<int> places(static_cast<std::size_t>(p.m));
  for (std::int64_t r = 0; r < p.rows; ++r) {
    for (std::int64_t k = 0; k < p.cols; k += p.m) {
      std::iota(places.begin(), places.end(), 0);
      std::shuffle(places.begin(), places.end(), random);
      for (int i = 0; i < p.n; ++i) {
        const std::int64_t column = k + places[static_cast<std::size_t>(i)];
        if (column < p.cols && random() % 5 != 0)
          values[static_cast<std::size_t>(r * p.cols + column)] = normal(random);
      }
    }
  }
  return values;
}

std::vector<float> make_activations(const Problem& p, std::mt19937& random) {
  std::vector<float> values(static_cast<std::size_t>(p.tokens * p.cols));
  std::normal_distribution<float> normal;
  for (float& v : values) v = normal(random);
  return values;
}

class NmGemm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (active_isa() < Isa::kAmx) GTEST_SKIP() << "this CPU has no AMX";
    kernel_ = find_spmm_kernel("nm.amx.panels");
    ASSERT_NE(kernel_, nullptr);
  }

  MatrixPtr pack_weight(const Problem& p, std::mt19937& random) {
    weight_ = make_weight(p, random);
    return pack(DenseSource({weight_.data(), DType::kF32, p.rows, p.cols, p.cols}),
                format::nm(p.n, p.m), DType::kBF16);
  }

  std::vector<float> run(const Matrix& a, const Problem& p, const std::vector<float>& b,
                         ThreadPool& pool) {
    std::vector<float> c(static_cast<std::size_t>(p.tokens * p.rows), -1.0F);
    SpmmArgs args;
    args.b = matrix_ref(b.data(), p.tokens, p.cols);
    args.c = matrix_ref(c.data(), p.tokens, p.rows);
    spmm(a, args, pool, kernel_);
    return c;
  }

  const SpmmKernel* kernel_ = nullptr;
  std::vector<float> weight_;
};

TEST_F(NmGemm, MatchesTheReferenceForEveryPattern) {
  const Problem problems[] = {{1, 2, 33, 70, 5},   {2, 4, 16, 64, 2},    {2, 4, 37, 75, 17},
                              {2, 4, 1, 1, 3},     {2, 4, 50, 2085, 33}, {1, 4, 40, 130, 20},
                              {3, 4, 20, 99, 16},  {4, 8, 70, 2100, 40}, {1, 8, 17, 77, 9},
                              {3, 16, 35, 200, 6}, {8, 16, 31, 65, 18},  {1, 32, 30, 97, 4},
                              {5, 32, 18, 330, 7}, {31, 32, 19, 100, 2}};
  std::mt19937 random(7);
  for (const Problem& p : problems) {
    const MatrixPtr a = pack_weight(p, random);
    const std::vector<float> b = make_activations(p, random);
    const std::vector<float> got = run(*a, p, b, default_pool());
    std::vector<double> want(got.size());
    SpmmArgs args;
    args.b = matrix_ref(b.data(), p.tokens, p.cols);
    args.c = MatrixRef{want.data(), DType::kF64, p.tokens, p.rows, p.rows};
    spmm_reference(*a, args);
    for (std::int64_t t = 0; t < p.tokens; ++t) {
      for (std::int64_t r = 0; r < p.rows; ++r) {
        double magnitude = 0;
        for (std::int64_t k = 0; k < p.cols; ++k)
          magnitude += std::abs(weight_[static_cast<std::size_t>(r * p.cols + k)] *
                                b[static_cast<std::size_t>(t * p.cols + k)]);
        // Activations in two bf16 parts lose 2^-16 of themselves, sums γ of the terms added.
        const double bound = magnitude * (0x1p-15 + static_cast<double>(p.cols) * 0x1p-23) + 1e-30;
        const auto at = static_cast<std::size_t>(t * p.rows + r);
        ASSERT_LE(std::abs(got[at] - want[at]), bound)
            << p.n << ":" << p.m << " " << p.rows << "x" << p.cols << " N=" << p.tokens << " token "
            << t << " row " << r;
      }
    }
  }
}

TEST_F(NmGemm, GivesTheSameBitsForAnyNumberOfThreads) {
  std::mt19937 random(8);
  for (const Problem& p : {Problem{2, 4, 150, 2100, 40}, Problem{4, 8, 83, 300, 20}}) {
    const MatrixPtr a = pack_weight(p, random);
    const std::vector<float> b = make_activations(p, random);
    ThreadPool one(1);
    const std::vector<float> want = run(*a, p, b, one);
    for (const int threads : {2, 3, 7}) {
      ThreadPool pool(threads);
      const std::vector<float> got = run(*a, p, b, pool);
      EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0) << threads;
    }
  }
}

TEST_F(NmGemm, KeepsInfinitiesInTheirToken) {
  std::mt19937 random(9);
  const Problem p{2, 4, 20, 60, 18};
  const MatrixPtr a = pack_weight(p, random);
  std::vector<float> b = make_activations(p, random);
  b[static_cast<std::size_t>(17 * p.cols + 59)] = std::numeric_limits<float>::infinity();
  const std::vector<float> got = run(*a, p, b, default_pool());
  int reached = 0;
  for (std::int64_t t = 0; t < p.tokens; ++t) {
    for (std::int64_t r = 0; r < p.rows; ++r) {
      const float value = got[static_cast<std::size_t>(t * p.rows + r)];
      const bool stored = weight_[static_cast<std::size_t>(r * p.cols + 59)] != 0;
      if (t < 17) {
        EXPECT_TRUE(std::isfinite(value));
      } else if (stored) {
        EXPECT_FALSE(std::isfinite(value));
        ++reached;
      }
    }
  }
  EXPECT_GT(reached, 3);
}

TEST_F(NmGemm, SaysWhatItCannotRun) {
  const SpmmProblem problem{.m = 64, .k = 64, .n = 8, .weight = DType::kBF16};
  EXPECT_TRUE(kernel_->supports(format::nm(2, 4), problem));
  EXPECT_FALSE(kernel_->supports(format::nm(3, 5), problem));
  EXPECT_FALSE(kernel_->supports(format::kCsr32, problem));
  SpmmProblem half = problem;
  half.weight = DType::kF16;
  EXPECT_FALSE(kernel_->supports(format::nm(2, 4), half));
  SpmmProblem one = problem;
  one.n = 1;
  EXPECT_FALSE(kernel_->supports(format::nm(2, 4), one));
}

}  // namespace
}  // namespace rarefy
