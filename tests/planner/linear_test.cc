#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "io/expect_error.h"
#include "rarefy/log.h"
#include "rarefy/planner.h"

namespace rarefy {
namespace {

constexpr std::int64_t kRows = 48;
constexpr std::int64_t kCols = 80;

std::vector<float> random_values(std::size_t count, double density) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> unit;
  std::vector<float> values(count);
  for (float& value : values)
    value = unit(random) < density ? static_cast<float>(unit(random) - 0.5) : 0.0F;
  return values;
}

class LinearTest : public ::testing::Test {
 protected:
  static std::vector<float> run(const Linear& linear, std::int64_t n) {
    const std::vector<float> b = random_values(static_cast<std::size_t>(n * kCols), 1);
    std::vector<float> c(static_cast<std::size_t>(n * kRows), -1);
    SpmmArgs args;
    args.b = matrix_ref(b.data(), n, kCols);
    args.c = matrix_ref(c.data(), n, kRows);
    linear.run(args);
    return c;
  }
  /// The same with one kernel for every n.
  static std::vector<float> run_with(const Matrix& matrix, std::int64_t n,
                                     const SpmmKernel* kernel) {
    const std::vector<float> b = random_values(static_cast<std::size_t>(n * kCols), 1);
    std::vector<float> c(static_cast<std::size_t>(n * kRows), -1);
    SpmmArgs args;
    args.b = matrix_ref(b.data(), n, kCols);
    args.c = matrix_ref(c.data(), n, kRows);
    spmm(matrix, args, default_pool(), kernel);
    return c;
  }
  /// Kernels that run `format` at n = 1.
  static std::vector<const SpmmKernel*> kernels_of(const FormatSpec& format, std::int64_t n) {
    std::vector<const SpmmKernel*> found;
    for (const SpmmKernel* kernel : spmm_kernels()) {
      if (kernel->supports(format, {.m = kRows,
                                    .k = kCols,
                                    .n = n,
                                    .weight = DType::kF32,
                                    .threads = default_pool().size()}))
        found.push_back(kernel);
    }
    return found;
  }

  std::vector<float> values = random_values(kRows * kCols, 0.4);
  DenseSource source{{values.data(), DType::kF32, kRows, kCols, kCols}};
};

TEST_F(LinearTest, DispatchesByTheNumberOfColumns) {
  const MatrixPtr matrix = pack(source, format::kDense);
  const auto at_one = kernels_of(format::kDense, 1);
  const auto at_many = kernels_of(format::kDense, 33);
  ASSERT_GE(at_one.size(), 1U);
  const SpmmKernel* first = at_one.front();
  const SpmmKernel* second = at_many.back();
  Plan plan;
  plan.steps = {{.n_min = 1, .n_max = 16, .kernel = std::string(first->name())},
                {.n_min = 17, .kernel = std::string(second->name())}};
  const Linear linear(matrix, plan);
  EXPECT_EQ(&linear.plan().step(16), linear.plan().steps.data());
  EXPECT_EQ(&linear.plan().step(17), linear.plan().steps.data() + 1);
  // Bitwise what the step's kernel gives: kernels differ in the order of their sums.
  EXPECT_EQ(run(linear, 1), run_with(*matrix, 1, first));
  EXPECT_EQ(run(linear, 33), run_with(*matrix, 33, second));
}

TEST_F(LinearTest, FallsBackWhereTheKernelCannot) {
  // A kernel for another format: planned by nobody, but a plan file may be anything.
  const SpmmKernel* stranger = nullptr;
  for (const SpmmKernel* kernel : spmm_kernels()) {
    if (!kernel->supports(format::kDense, {.m = kRows, .k = kCols, .n = 1, .weight = DType::kF32}))
      stranger = kernel;
  }
  ASSERT_NE(stranger, nullptr);
  Plan plan;
  plan.steps = {{.kernel = std::string(stranger->name())}};
  const MatrixPtr matrix = pack(source, format::kDense);
  EXPECT_EQ(run(Linear(matrix, plan), 1), run_with(*matrix, 1, nullptr));
}

TEST_F(LinearTest, WithoutStepsTheDefaultKernelRuns) {
  const MatrixPtr matrix = pack(source, format::kBitmap);
  Plan plan;
  plan.format = format::kBitmap;
  EXPECT_EQ(run(Linear(matrix, plan), 2), run_with(*matrix, 2, nullptr));
}

TEST_F(LinearTest, RefusesWhatDoesNotBelongTogether) {
  Plan plan;
  plan.format = format::kBitmap;
  EXPECT_THROW(Linear(nullptr, plan), Error);
  EXPECT_THROW(Linear(pack(source, format::kDense), plan), Error);
  plan.steps = {{.kernel = "no such kernel"}};
  EXPECT_THROW(Linear(pack(source, format::kBitmap), plan), Error);
  EXPECT_THROW(Linear().run({}), Error);
  EXPECT_FALSE(static_cast<bool>(Linear()));
}

TEST_F(LinearTest, DensePlansBorrowRowsThatLieInMemory) {
  const auto shared = std::make_shared<DenseSource>(source);
  Plan plan;
  plan.steps = {{.kernel = ""}};
  const Linear linear = make_linear(shared, plan);
  EXPECT_EQ(linear.matrix().dense_data(), values.data());
  EXPECT_GT(shared.use_count(), 1);  // Kept alive.
  plan.format = format::kCsr32;
  const Linear packed = make_linear(shared, plan);
  EXPECT_EQ(packed.matrix().spec(), format::kCsr32);
  EXPECT_EQ(run(packed, 1).size(), run(linear, 1).size());
}

TEST_F(LinearTest, APlanForAnotherShapeIsRefused) {
  Plan plan;
  plan.format = format::kBitmap;
  plan.rows = kRows;
  plan.cols = kCols + 1;
  plan.nnz = 1;
  testing::expect_error([&] { make_linear(std::make_shared<DenseSource>(source), plan); },
                        ErrorKind::kInvalidArgument,
                        {"expected 48x81, for which the plan was made, got 48x80"});
}

TEST_F(LinearTest, SaysAloudThatTheWeightChangedSinceItWasPlanned) {
  std::string heard;
  set_log([&](std::string_view line) { heard += line; });
  const auto nonzeros = std::count_if(values.begin(), values.end(), [](float x) { return x != 0; });
  Plan plan;
  plan.format = format::kBitmap;
  plan.rows = kRows;
  plan.cols = kCols;
  plan.nnz = nonzeros;
  const auto shared = std::make_shared<DenseSource>(source);
  make_linear(shared, plan);
  plan.nnz = nonzeros - kRows * kCols * 3 / 100;  // Within a class of densities.
  make_linear(shared, plan);
  EXPECT_EQ(heard, "");
  plan.nnz = kRows * kCols / 10;
  const Linear changed = make_linear(shared, plan);
  EXPECT_NE(heard.find("changed since it was planned (10.0 % nonzero then"), std::string::npos)
      << heard;
  EXPECT_NE(heard.find("plan it again"), std::string::npos) << heard;
  EXPECT_EQ(changed.matrix().nnz(), nonzeros);  // And right all the same.
  // A pattern that the plan rests on is refused by packing.
  plan.format = format::nm(1, 4);
  EXPECT_THROW(make_linear(shared, plan), Error);
  set_log({});
}

TEST_F(LinearTest, APlanWithoutStepsHasNoStep) {
  EXPECT_THROW(static_cast<void>(Plan{}.step(1)), Error);
}

}  // namespace
}  // namespace rarefy
