#include "compress/linear_algebra.h"

#include <gtest/gtest.h>

#include <vector>

#include "compress/matrices.h"

namespace rarefy::compress {
namespace {

/// Sizes around the tiles of 128 and 256.
class LinearAlgebra : public ::testing::TestWithParam<std::int64_t> {
 protected:
  const std::int64_t n_ = GetParam();
  ThreadPool pool_{2};
  SingleThreadedBlas one_thread_;

  [[nodiscard]] std::size_t at(std::int64_t i, std::int64_t j) const {
    return static_cast<std::size_t>(i * n_ + j);
  }
  /// A well-conditioned symmetric matrix: 2 on the diagonal, decaying away from it.
  [[nodiscard]] std::vector<float> spd() const {
    std::vector<float> a(static_cast<std::size_t>(n_ * n_));
    for (std::int64_t i = 0; i < n_; ++i) {
      for (std::int64_t j = 0; j < n_; ++j)
        a[at(i, j)] = static_cast<float>(std::pow(0.6, std::abs(i - j))) + (i == j ? 1.0F : 0.0F);
    }
    return a;
  }
};

TEST_P(LinearAlgebra, GramIsTheSumOfOuterProducts) {
  constexpr std::int64_t kTokens = 5;
  const std::vector<float> x = testing::normal_values(kTokens * n_, 1);
  std::vector<float> h(static_cast<std::size_t>(n_ * n_));
  add_gram(matrix_ref(x.data(), 3, n_), h.data(), pool_);
  add_gram(matrix_ref(x.data() + 3 * n_, 2, n_), h.data(), pool_);
  for (std::int64_t i = 0; i < n_; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (std::int64_t t = 0; t < kTokens; ++t)
        sum += static_cast<double>(x[static_cast<std::size_t>(t * n_ + i)]) *
               x[static_cast<std::size_t>(t * n_ + j)];
      ASSERT_NEAR(h[at(i, j)], sum, 1e-5) << i << " " << j;  // 5 products of size ~1 in f32
    }
  }
}

TEST_P(LinearAlgebra, CholeskyTimesItsTransposeIsTheMatrix) {
  const std::vector<float> a = spd();
  std::vector<float> l = a;
  ASSERT_TRUE(cholesky_lower(l.data(), n_, pool_));
  for (std::int64_t i = 0; i < n_; ++i) {
    for (std::int64_t j = 0; j < n_; ++j) {
      if (j > i) {
        ASSERT_EQ(l[at(i, j)], a[at(i, j)]);
        continue;
      }
      double sum = 0;
      for (std::int64_t k = std::max<std::int64_t>(0, j - 60); k <= j; ++k)
        sum += static_cast<double>(l[at(i, k)]) * l[at(j, k)];
      ASSERT_NEAR(sum, a[at(i, j)], 1e-5) << i << " " << j;
    }
  }
}

TEST_P(LinearAlgebra, InverseOfTheTriangleInverts) {
  std::vector<float> l = spd();
  ASSERT_TRUE(cholesky_lower(l.data(), n_, pool_));
  std::vector<float> inverse = l;
  invert_lower(inverse.data(), n_, pool_);
  for (std::int64_t i = 0; i < n_; i += 7) {
    for (std::int64_t j = 0; j < n_; ++j) {
      if (j > i) {
        ASSERT_EQ(inverse[at(i, j)], l[at(i, j)]);
        continue;
      }
      double sum = 0;
      for (std::int64_t k = j; k <= i; ++k)
        sum += static_cast<double>(inverse[at(i, k)]) * l[at(k, j)];
      ASSERT_NEAR(sum, i == j ? 1.0 : 0.0, 1e-5) << i << " " << j;
    }
  }
}

TEST_P(LinearAlgebra, RefusesAnIndefiniteMatrix) {
  std::vector<float> a = spd();
  a[at(n_ - 1, n_ - 1)] = -1;
  EXPECT_FALSE(cholesky_lower(a.data(), n_, pool_));
}

TEST_P(LinearAlgebra, IsTheSameForAnyNumberOfThreads) {
  const std::vector<float> x = testing::normal_values(4 * n_, 2);
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::vector<float> a = spd();
    add_gram(matrix_ref(x.data(), 4, n_), a.data(), pool);
    ASSERT_TRUE(cholesky_lower(a.data(), n_, pool));
    invert_lower(a.data(), n_, pool);
    results.push_back(a);
  }
  EXPECT_EQ(results[0], results[1]);
}

INSTANTIATE_TEST_SUITE_P(Sizes, LinearAlgebra, ::testing::Values(1, 5, 128, 129, 256, 300, 530));

TEST(SubtractProduct, WorksOnPartsOfLargerMatrices) {
  ThreadPool pool(2);
  const SingleThreadedBlas one_thread;
  constexpr std::int64_t kM = 300;
  const std::vector<float> a = testing::normal_values(kM * 8, 3);
  const std::vector<float> b = testing::normal_values(4 * 10, 4);
  std::vector<float> c(static_cast<std::size_t>(kM * 12), 1.0F);
  subtract_product(kM, 6, 4, a.data() + 2, 8, b.data() + 1, 10, c.data() + 3, 12, pool);
  for (std::int64_t i = 0; i < kM; ++i) {
    for (std::int64_t j = 0; j < 12; ++j) {
      double expected = 1;
      for (std::int64_t k = 0; k < 4 && j >= 3 && j < 9; ++k)
        expected -= static_cast<double>(a[static_cast<std::size_t>(i * 8 + 2 + k)]) *
                    b[static_cast<std::size_t>(k * 10 + 1 + j - 3)];
      ASSERT_NEAR(c[static_cast<std::size_t>(i * 12 + j)], expected, 1e-5);
    }
  }
}

}  // namespace
}  // namespace rarefy::compress
