// SpMM on compressed sparse blocks larger than one block, with numbers of tokens about the widths
// of panels: whole numbers, so that every sum is exact.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "rarefy/cpu.h"
#include "rarefy/spmm.h"

namespace rarefy {
namespace {

class CsbSpmm : public ::testing::TestWithParam<const char*> {};

void expect_exact_sums(const SpmmKernel* kernel, std::int64_t rows) {
  constexpr std::int64_t kCols = 400;
  std::mt19937 random(3);
  std::vector<float> w(static_cast<std::size_t>(rows * kCols));
  for (std::size_t i = 0; i < w.size(); ++i) {
    const std::int64_t row = static_cast<std::int64_t>(i) / kCols;
    // Densities from 0 to 1, so that rows of a block differ.
    if (static_cast<std::int64_t>(random() % 97) < row % 98)
      w[i] = static_cast<float>(random() % 7 + 1);
  }
  ThreadPool one(1);
  ThreadPool five(5);
  const MatrixPtr a =
      pack(DenseSource({w.data(), DType::kF32, rows, kCols, kCols}), format::kCsb, one);
  for (std::int64_t n : {1, 16, 17, 33, 65, 130}) {
    std::vector<float> b(static_cast<std::size_t>(n * kCols));
    for (float& x : b) x = static_cast<float>(random() % 9) - 4;
    std::vector<float> c(static_cast<std::size_t>(n * rows), -1.0F);
    std::vector<double> expected(c.size());
    SpmmArgs args;
    args.b = matrix_ref(b.data(), n, kCols);
    args.c = {expected.data(), DType::kF64, n, rows, rows};
    spmm_reference(*a, args);
    args.c = matrix_ref(c.data(), n, rows);
    for (ThreadPool* pool : {&one, &five}) {
      std::fill(c.begin(), c.end(), -1.0F);
      spmm(*a, args, *pool, kernel);
      for (std::size_t i = 0; i < c.size(); ++i)
        ASSERT_EQ(c[i], static_cast<float>(expected[i]))
            << "n " << n << ", token " << i / rows << ", row " << i % rows;
    }
  }
}

TEST_P(CsbSpmm, AddsWholeNumbersExactlyAcrossBlocksPanelsAndThreads) {
  const SpmmKernel* kernel = find_spmm_kernel(GetParam());
  ASSERT_NE(kernel, nullptr);
  if (active_isa() < kernel->isa()) GTEST_SKIP() << "this CPU is too old";
  expect_exact_sums(kernel, 517);
  // Fewer rows of blocks than threads: the threads share panels too.
  expect_exact_sums(kernel, 200);
}

INSTANTIATE_TEST_SUITE_P(All, CsbSpmm, ::testing::Values("csb.avx512", "csb.avx2", "csb.portable"),
                         [](const auto& test) {
                           std::string name = test.param;
                           name[3] = '_';
                           return name;
                         });

}  // namespace
}  // namespace rarefy
