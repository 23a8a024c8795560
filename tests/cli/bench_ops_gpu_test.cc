#include "cli/bench_ops_gpu.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "cli/bench_ops_truth.h"
#include "cuda/gpu_or_skip.h"

namespace rarefy::bench {
namespace {

TEST(Truth, SeesWrongAndMissingAnswers) {
  const BenchWeight weight = make_weight({.m = 40, .k = 64, .dtype = DType::kF32});
  const Buffer b = make_activations(3, 64, DType::kF32);
  const ConstMatrixRef tokens{b.data(), DType::kF32, 3, 64, 64};
  const Truth truth(weight, tokens);
  std::vector<double> exact(3 * 40);
  SpmmArgs args;
  args.b = tokens;
  args.c = {exact.data(), DType::kF64, 3, 40, 40};
  const DenseSource source = weight.source();
  spmm_reference(source, args);
  std::vector<float> c(exact.begin(), exact.end());
  const MatrixRef answer{c.data(), DType::kF32, 3, 40, 40};
  EXPECT_LT(truth.error(answer), 1e-6);
  c[40 + 7] += 1;
  EXPECT_GT(truth.error(answer), 0.01);
  c[40 + 7] = NAN;
  EXPECT_TRUE(std::isinf(truth.error(answer)));
}

TEST(BenchOpsOnDevice, RowsAreCheckedTimedAndCompared) {
  RAREFY_SKIP_WITHOUT_GPU();
  const cuda::Stream stream;
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    for (const std::int64_t n : {1, 8}) {
      const BenchWeight weight =
          make_weight({.m = 512, .k = 1024, .sparsity = 0.95, .dtype = dtype});
      const Result result = run_gpu_problem(weight, {.n = n, .activations = dtype, .measure = 3},
                                            stream, no_progress());
      int chosen = 0;
      std::set<std::string> methods;
      for (const Row& row : result.rows) {
        chosen += row.chosen ? 1 : 0;
        EXPECT_TRUE(methods.insert(row.method).second) << row.method;
        EXPECT_FALSE(row.format.empty()) << row.method;
        EXPECT_GT(row.min_us, 0) << row.method;
        EXPECT_LE(row.min_us, row.median_us) << row.method;
        EXPECT_LE(row.median_us, row.max_us) << row.method;
        EXPECT_GT(row.bytes, 0U) << row.method;
        EXPECT_LT(row.max_rel_err, 0.01) << row.method;
        if (row.dense) {
          EXPECT_LE(row.speedup_vs_best_dense, 1.0) << row.method;
        }
      }
      EXPECT_EQ(chosen, 1);
      const auto any = [&](const std::string& prefix) {
        return std::any_of(methods.begin(), methods.end(),
                           [&](const std::string& m) { return m.starts_with(prefix); });
      };
      const bool cusparse_said_why =
          std::any_of(result.skipped.begin(), result.skipped.end(),
                      [](const Skipped& s) { return s.name == "cusparse" && !s.reason.empty(); });
      EXPECT_TRUE(any("cusparse") || cusparse_said_why);
    }
  }
}

}  // namespace
}  // namespace rarefy::bench
