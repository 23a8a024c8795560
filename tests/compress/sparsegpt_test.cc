#include "compress/sparsegpt.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "compress/magnitude.h"
#include "compress/matrices.h"
#include "compress/wanda.h"
#include "rarefy/error.h"

namespace rarefy::compress {
namespace {

using Doubles = std::vector<double>;

/// Inverse of a small symmetric positive definite matrix by Gauss-Jordan elimination.
Doubles inverse(Doubles a, std::size_t n) {
  Doubles b(n * n);
  for (std::size_t i = 0; i < n; ++i) b[i * n + i] = 1;
  for (std::size_t i = 0; i < n; ++i) {
    const double pivot = a[i * n + i];
    for (std::size_t j = 0; j < n; ++j) {
      a[i * n + j] /= pivot;
      b[i * n + j] /= pivot;
    }
    for (std::size_t r = 0; r < n; ++r) {
      if (r == i) continue;
      const double f = a[r * n + i];
      for (std::size_t j = 0; j < n; ++j) {
        a[r * n + j] -= f * a[i * n + j];
        b[r * n + j] -= f * b[i * n + j];
      }
    }
  }
  return b;
}

/// Optimal brain surgeon, column by column, straight from the definition: when column j is decided,
/// columns before it are frozen, so that the inverse of H over the columns from j on is what
/// counts. Nothing is factorised, nothing is lazy.
struct Surgeon {
  std::size_t m, k;
  Doubles w, h;               // H damped
  std::vector<Doubles> rest;  // rest[j]: inverse of H[j:, j:]

  Surgeon(const std::vector<float>& weights, const std::vector<float>& x, std::size_t rows,
          std::size_t cols, double dampening)
      : m(rows), k(cols), w(weights.begin(), weights.end()), h(cols * cols) {
    for (std::size_t t = 0; t < x.size() / k; ++t) {
      for (std::size_t i = 0; i < k; ++i) {
        for (std::size_t j = 0; j < k; ++j)
          h[i * k + j] += static_cast<double>(x[t * k + i]) * x[t * k + j];
      }
    }
    double mean = 0;
    for (std::size_t i = 0; i < k; ++i) mean += h[i * k + i] / static_cast<double>(k);
    for (std::size_t i = 0; i < k; ++i) h[i * k + i] += dampening * mean;
    rest.reserve(k);
    for (std::size_t j = 0; j < k; ++j) {
      const std::size_t n = k - j;
      Doubles part(n * n);
      for (std::size_t a = 0; a < n; ++a) {
        for (std::size_t b = 0; b < n; ++b) part[a * n + b] = h[(j + a) * k + j + b];
      }
      rest.push_back(inverse(part, n));
    }
  }

  [[nodiscard]] double score(std::size_t i, std::size_t j) const {
    return w[i * k + j] * w[i * k + j] / rest[j][0];
  }

  void drop(std::size_t i, std::size_t j) {
    const double multiplier = w[i * k + j] / rest[j][0];
    for (std::size_t l = j; l < k; ++l) w[i * k + l] -= multiplier * rest[j][l - j];
    w[i * k + j] = 0;
  }

  void run_unstructured(double sparsity, std::size_t block) {
    for (std::size_t first = 0; first < k; first += block) {
      const std::size_t width = std::min(block, k - first);
      std::vector<std::pair<double, std::size_t>> order;
      for (std::size_t i = 0; i < m; ++i) {
        for (std::size_t j = 0; j < width; ++j)
          order.emplace_back(score(i, first + j), i * width + j);
      }
      std::sort(order.begin(), order.end());
      std::vector<bool> gone(m * width);
      const auto zeros = zeros_of(sparsity, static_cast<std::int64_t>(m * width));
      for (std::size_t r = 0; r < static_cast<std::size_t>(zeros); ++r)
        gone[order[r].second] = true;
      for (std::size_t i = 0; i < m; ++i) {
        for (std::size_t j = 0; j < width; ++j) {
          if (gone[i * width + j]) drop(i, first + j);
        }
      }
    }
  }

  void run_nm(std::size_t keep, std::size_t group) {
    for (std::size_t i = 0; i < m; ++i) {
      for (std::size_t first = 0; first < k; first += group) {
        std::vector<std::pair<double, std::size_t>> order;
        for (std::size_t j = first; j < first + group; ++j) order.emplace_back(score(i, j), j);
        std::sort(order.begin(), order.end());
        order.resize(group - keep);
        std::vector<std::size_t> gone;
        gone.reserve(order.size());
        for (const auto& [s, j] : order) gone.push_back(j);
        std::sort(gone.begin(), gone.end());
        for (const std::size_t j : gone) drop(i, j);
      }
    }
  }
};

class SparseGpt : public ::testing::Test {
 protected:
  static constexpr std::int64_t kM = 10;
  static constexpr std::int64_t kK = 48;
  static constexpr std::int64_t kTokens = 160;
  static constexpr double kDampening = 0.01;

  [[nodiscard]] InverseFactor factor(const std::vector<float>& x, ThreadPool& pool) const {
    Hessian hessian(kK);
    const auto tokens = static_cast<std::int64_t>(x.size()) / kK;
    hessian.add(matrix_ref(x.data(), tokens / 2, kK), pool);
    hessian.add(matrix_ref(x.data() + tokens / 2 * kK, tokens - tokens / 2, kK), pool);
    return factorise(std::move(hessian), kDampening, "w", pool);
  }
  [[nodiscard]] std::vector<float> prune(const SparseGptRule& rule, ThreadPool& pool,
                                         double* loss = nullptr) const {
    DenseWeight weight = testing::dense_weight(values_, kM, kK, pool);
    const double sum = prune_sparsegpt(weight, factor(x_, pool), rule, pool);
    if (loss != nullptr) *loss = sum;
    return testing::floats_of(weight);
  }
  /// f32 against double: 48 columns of updates, condition of H ~1e3 after dampening.
  static void expect_near(const std::vector<float>& got, const Doubles& expected) {
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i] == 0, expected[i] == 0) << i;
      EXPECT_NEAR(got[i], expected[i], 2e-4 * (1 + std::fabs(expected[i]))) << i;
    }
  }

  ThreadPool pool_{2};
  std::vector<float> values_ = testing::normal_values(kM * kK, 11);
  std::vector<float> x_ = testing::correlated_inputs(kTokens, kK, 12);
};

TEST_F(SparseGpt, FactorIsTheUpperCholeskyOfTheInverse) {
  const InverseFactor u = factor(x_, pool_);
  const Surgeon surgeon(values_, x_, kM, kK, kDampening);
  for (std::int64_t i = 0; i < kK; ++i) {
    for (std::int64_t j = 0; j < kK; ++j) {
      double sum = 0;
      for (std::int64_t r = 0; r <= std::min(i, j); ++r)
        sum += static_cast<double>(u.row(r)[i]) * u.row(r)[j];
      const double expected = surgeon.rest[0][static_cast<std::size_t>(i * kK + j)];
      const double scale = std::sqrt(surgeon.rest[0][static_cast<std::size_t>(i * kK + i)] *
                                     surgeon.rest[0][static_cast<std::size_t>(j * kK + j)]);
      EXPECT_NEAR(sum / scale, expected / scale, 1e-4) << i << " " << j;
    }
  }
}

TEST_F(SparseGpt, UnstructuredMatchesTheSurgeon) {
  for (const std::int64_t block : {8, 20, 48, 128}) {
    Surgeon surgeon(values_, x_, kM, kK, kDampening);
    surgeon.run_unstructured(0.6, static_cast<std::size_t>(block));
    expect_near(prune({PrunePattern{}, PruneScope::kTensor, 0.6, block}, pool_), surgeon.w);
  }
}

TEST_F(SparseGpt, NmMatchesTheSurgeonAndEveryGroupIsValid) {
  for (const auto& [n, m] : {std::pair{2, 4}, {4, 8}, {1, 4}, {3, 16}}) {
    Surgeon surgeon(values_, x_, kM, kK, kDampening);
    surgeon.run_nm(static_cast<std::size_t>(n), static_cast<std::size_t>(m));
    const PrunePattern pattern{PrunePattern::Kind::kNm, n, m};
    // A width of 10 is rounded up to whole groups.
    const std::vector<float> pruned = prune({pattern, PruneScope::kTensor, 0, 10}, pool_);
    expect_near(pruned, surgeon.w);
    for (std::size_t g = 0; g < pruned.size(); g += static_cast<std::size_t>(m))
      EXPECT_EQ(std::count(pruned.begin() + static_cast<std::ptrdiff_t>(g),
                           pruned.begin() + static_cast<std::ptrdiff_t>(g) + m, 0.0F),
                m - n);
  }
}

TEST_F(SparseGpt, BlocksOfColumnsHoldExactCounts) {
  const std::vector<float> pruned = prune({PrunePattern{}, PruneScope::kTensor, 0.7, 16}, pool_);
  for (std::int64_t first = 0; first < kK; first += 16) {
    std::int64_t zeros = 0;
    for (std::int64_t i = 0; i < kM; ++i) {
      const auto begin = pruned.begin() + i * kK + first;
      zeros += std::count(begin, begin + 16, 0.0F);
    }
    EXPECT_EQ(zeros, zeros_of(0.7, kM * 16));
  }
  const std::vector<float> by_row = prune({PrunePattern{}, PruneScope::kRow, 0.7, 16}, pool_);
  for (std::int64_t i = 0; i < kM; ++i) {
    const auto begin = by_row.begin() + i * kK;
    EXPECT_EQ(std::count(begin, begin + kK, 0.0F), 3 * zeros_of(0.7, 16));
  }
}

TEST_F(SparseGpt, BlockMasksAreWholeBlocks) {
  const PrunePattern pattern = PrunePattern::parse("5x8");
  const std::vector<float> pruned = prune({pattern, PruneScope::kTensor, 0.5, 20}, pool_);
  std::int64_t blocks = 0;
  for (std::int64_t r = 0; r < kM; r += 5) {
    for (std::int64_t c = 0; c < kK; c += 8) {
      std::int64_t zeros = 0;
      for (std::int64_t i = r; i < r + 5; ++i) {
        for (std::int64_t j = c; j < c + 8; ++j)
          zeros += pruned[static_cast<std::size_t>(i * kK + j)] == 0 ? 1 : 0;
      }
      EXPECT_TRUE(zeros == 0 || zeros == 40) << r << " " << c << " " << zeros;
      blocks += zeros / 40;
    }
  }
  // Width 20 becomes 24: two column blocks of 2x3 blocks, half of each.
  EXPECT_EQ(blocks, 6);
}

TEST_F(SparseGpt, LossIsTheQuadraticFormOfTheChange) {
  double loss = 0;
  const std::vector<float> pruned =
      prune({PrunePattern{}, PruneScope::kTensor, 0.5, 16}, pool_, &loss);
  const Surgeon surgeon(values_, x_, kM, kK, kDampening);
  double expected = 0;
  for (std::size_t i = 0; i < kM; ++i) {
    for (std::size_t a = 0; a < kK; ++a) {
      for (std::size_t b = 0; b < kK; ++b)
        expected += (static_cast<double>(values_[i * kK + a]) - pruned[i * kK + a]) *
                    surgeon.h[a * kK + b] *
                    (static_cast<double>(values_[i * kK + b]) - pruned[i * kK + b]);
    }
  }
  EXPECT_NEAR(loss, expected, 1e-3 * expected);
}

TEST_F(SparseGpt, LosesLessOutputThanWandaAndMagnitude) {
  InputNorms norms(kK);
  norms.add(matrix_ref(x_.data(), kTokens, kK), pool_);
  DenseWeight wanda = testing::dense_weight(values_, kM, kK, pool_);
  prune_wanda(wanda, norms.norms("w"), {PrunePattern{}, PruneScope::kRow, 0.5}, pool_);
  DenseWeight magnitude = testing::dense_weight(values_, kM, kK, pool_);
  prune_magnitude(magnitude, {PrunePattern{}, PruneScope::kTensor, 0.5}, pool_);
  const auto change = [&](const std::vector<float>& pruned) {
    return testing::squared_output_change(values_, pruned, x_, kM, kK);
  };
  const double sparsegpt = change(prune({PrunePattern{}, PruneScope::kTensor, 0.5, 128}, pool_));
  EXPECT_LT(sparsegpt, 0.6 * change(testing::floats_of(wanda)));
  EXPECT_LT(sparsegpt, 0.3 * change(testing::floats_of(magnitude)));
}

TEST_F(SparseGpt, ZerosOfTheCheckpointStayZeroAndCount) {
  std::vector<float> thin = values_;
  for (std::size_t i = 0; i < thin.size(); i += 3) thin[i] = 0;
  for (const char* name : {"unstructured", "2:4"}) {
    for (const double sparsity : {0.1, 0.5}) {
      DenseWeight weight = testing::dense_weight(thin, kM, kK, pool_);
      prune_sparsegpt(weight, factor(x_, pool_),
                      {PrunePattern::parse(name), PruneScope::kTensor, sparsity, 16}, pool_);
      const std::vector<float> pruned = testing::floats_of(weight);
      for (std::size_t i = 0; i < thin.size(); i += 3) EXPECT_EQ(pruned[i], 0) << i;
      if (name == std::string_view("2:4")) {
        EXPECT_EQ(weight.nnz(pool_), kM * kK / 2);
      } else {
        EXPECT_EQ(weight.nnz(pool_), kM * kK - (sparsity == 0.1 ? kM * kK / 3 : kM * kK / 2));
      }
    }
  }
}

TEST_F(SparseGpt, DeadInputsGoAndHarmNothing) {
  std::vector<float> x = x_;
  for (std::size_t t = 0; t < kTokens; ++t) x[t * kK + 5] = x[t * kK + 30] = 0;
  DenseWeight weight = testing::dense_weight(values_, kM, kK, pool_);
  const InverseFactor u = factor(x, pool_);
  EXPECT_EQ(std::accumulate(u.dead.begin(), u.dead.end(), 0), 2);
  prune_sparsegpt(weight, u, {PrunePattern{}, PruneScope::kTensor, 0.5, 128}, pool_);
  const std::vector<float> pruned = testing::floats_of(weight);
  for (std::size_t i = 0; i < kM; ++i) {
    EXPECT_EQ(pruned[i * kK + 5], 0);
    EXPECT_EQ(pruned[i * kK + 30], 0);
  }
  EXPECT_EQ(weight.nnz(pool_), kM * kK / 2);
  for (const float v : pruned) EXPECT_TRUE(std::isfinite(v));
}

TEST_F(SparseGpt, FewTokensNeedDampeningOnly) {
  // 6 tokens for 48 inputs: H has rank 6, the dampening makes it definite.
  const std::vector<float> x = testing::correlated_inputs(6, kK, 13);
  DenseWeight weight = testing::dense_weight(values_, kM, kK, pool_);
  prune_sparsegpt(weight, factor(x, pool_), {PrunePattern{}, PruneScope::kTensor, 0.5, 128}, pool_);
  for (const float v : testing::floats_of(weight)) EXPECT_TRUE(std::isfinite(v));
}

TEST_F(SparseGpt, DampeningGrowsUntilTheHessianIsDefinite) {
  // Identical inputs without dampening: singular.
  std::vector<float> x(8 * kK);
  for (std::size_t t = 0; t < 8; ++t)
    std::fill_n(x.begin() + t * kK, kK, 1.0F + static_cast<float>(t));
  Hessian hessian(kK);
  hessian.add(matrix_ref(x.data(), 8, kK), pool_);
  const InverseFactor u = factorise(std::move(hessian), 0.0, "w", pool_);
  for (std::int64_t i = 0; i < kK; ++i) EXPECT_GT(u.row(i)[i], 0) << i;
}

TEST_F(SparseGpt, IsTheSameForAnyNumberOfThreads) {
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    results.push_back(prune({PrunePattern{}, PruneScope::kTensor, 0.6, 16}, pool));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST_F(SparseGpt, RefusesWhatCannotWork) {
  DenseWeight weight = testing::dense_weight(values_, kM, kK, pool_);
  const InverseFactor u = factor(x_, pool_);
  EXPECT_THROW(prune_sparsegpt(weight, u,
                               {PrunePattern::parse("2:5"), PruneScope::kTensor, 0.5, 128}, pool_),
               Error);
  DenseWeight narrow = testing::dense_weight(values_, kM * 2, kK / 2, pool_);
  EXPECT_THROW(prune_sparsegpt(narrow, u, {PrunePattern{}, PruneScope::kTensor, 0.5, 128}, pool_),
               Error);
  std::vector<float> x = x_;
  x[7] = std::numeric_limits<float>::quiet_NaN();
  try {
    (void)factor(x, pool_);
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_TRUE(std::string(e.what()).starts_with("w: expected finite calibration inputs"))
        << e.what();
  }
}

}  // namespace
}  // namespace rarefy::compress
