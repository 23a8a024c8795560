#include "planner/kernel_scales.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fakes.h"
#include "io/expect_error.h"

namespace rarefy::planning::testing {
namespace {

const FakeKernel kBitmapKernel("bitmap.fake", format::kBitmap, microseconds(1));
const FakeKernel kCsrKernel("csr.fake", format::kCsr32, microseconds(1));

SpmmProblem problem(std::int64_t n, std::int64_t side = 4096) {
  return {.m = side, .k = side, .n = n, .weight = DType::kBF16};
}

TEST(KernelScales, AreOneWhereNothingIsKnown) {
  EXPECT_EQ(KernelScales().of(kBitmapKernel, format::kBitmap, problem(1), false), 1);
}

TEST(KernelScales, AreTheMedianOfTheNewest) {
  KernelScales scales;
  const auto learn = [&](double ratio) {
    scales.learn(kBitmapKernel, format::kBitmap, problem(128), false, ratio);
  };
  for (double ratio : {1.0, 9.0, 1.2}) learn(ratio);
  EXPECT_DOUBLE_EQ(scales.of(kBitmapKernel, format::kBitmap, problem(128), false), 1.2);
  // 100 columns are of the same bucket as 128.
  EXPECT_DOUBLE_EQ(scales.of(kBitmapKernel, format::kBitmap, problem(100), false), 1.2);
  for (int i = 0; i < 9; ++i) learn(2.0);
  EXPECT_DOUBLE_EQ(scales.of(kBitmapKernel, format::kBitmap, problem(128), false), 2.0);
  for (double mistake : {0.0, -1.0, 1e9, std::nan("")}) learn(mistake);
  EXPECT_DOUBLE_EQ(scales.of(kBitmapKernel, format::kBitmap, problem(128), false), 2.0);
}

TEST(KernelScales, WhatIsNotKnownIsTakenFromTheNearest) {
  KernelScales scales;
  scales.learn(kBitmapKernel, format::kBitmap, problem(16), false, 1.5);
  scales.learn(kBitmapKernel, format::kBitmap, problem(512), false, 3.0);
  scales.learn(kBitmapKernel, format::bsr(16, 32), problem(64), false, 7.0);
  const auto of = [&](const SpmmProblem& p) {
    return scales.of(kBitmapKernel, format::kBitmap, p, false);
  };
  EXPECT_DOUBLE_EQ(of(problem(32)), 1.5);  // Rather another n than another format.
  EXPECT_DOUBLE_EQ(of(problem(1024)), 3.0);
  EXPECT_DOUBLE_EQ(of(problem(16, 512)), 1.5);
  // A kernel that never ran: all have the machine in common.
  EXPECT_DOUBLE_EQ(scales.of(kCsrKernel, format::kCsr32, problem(1), false), 3.0);
  // From the caches nothing was seen.
  EXPECT_DOUBLE_EQ(scales.of(kBitmapKernel, format::kBitmap, problem(16), true), 1.0);
}

TEST(KernelScales, KeepThemselvesAsJson) {
  KernelScales scales;
  scales.learn(kBitmapKernel, format::kBitmap, problem(16), false, 1.5);
  scales.learn(kCsrKernel, format::kCsr32, problem(1), true, 0.5);
  const KernelScales back = KernelScales::from_json(scales.to_json());
  EXPECT_EQ(back.of(kBitmapKernel, format::kBitmap, problem(16), false), 1.5);
  EXPECT_EQ(back.of(kCsrKernel, format::kCsr32, problem(1), true), 0.5);
  Json damaged = scales.to_json();
  damaged[0]["ratios"] = {1.0, -1.0};
  rarefy::testing::expect_error([&] { KernelScales::from_json(damaged); }, ErrorKind::kCorrupt,
                                {"positive ratios"});
  EXPECT_THROW(KernelScales::from_json(Json::object()), Error);
}

TEST(KernelScales, CorrectTheEstimatesOfASearch) {
  const HalfOnes weight;
  const PatternStats pattern = pattern_stats(weight);
  const SpmmKernel* const kernels[] = {&kBitmapKernel};
  const PlanRequest request;
  const auto estimate = [&](const KernelScales* scales) {
    for (const Entry& e :
         enumerate_candidates(weight, pattern, {}, request, kernels, kCeilings, 1, scales)) {
      if (e.kernel == &kBitmapKernel && e.possible()) return e.candidate.estimate_us;
    }
    return 0.0;
  };
  KernelScales scales;
  scales.learn(kBitmapKernel, format::kBitmap, problem_for(weight, request, 1, 1), false, 2.5);
  EXPECT_GT(estimate(nullptr), 0);
  EXPECT_DOUBLE_EQ(estimate(&scales), 2.5 * estimate(nullptr));
}

}  // namespace
}  // namespace rarefy::planning::testing
