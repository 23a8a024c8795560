// The hybrid family: where weights are cut on any machine, both sides against the reference on a
// GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "blocky_weight.h"
#include "family_on_device.h"
#include "ops/spmm/cuda/blocks/cut_blocks.h"
#include "ops/spmm/cuda/device_calibration.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/hybrid/split_costs.h"
#include "ops/spmm/cuda/hybrid/splits.h"

namespace rarefy::gpu {
namespace {

constexpr Blocky kOutliers{.rows = 512, .cols = 768, .stored = 0.25, .scattered = 0.002};

TEST(Splits, TellWhatCuttingFinds) {
  const TestWeight w = blocky_weight(kOutliers, DType::kBF16);
  const std::vector<Split> splits = splits_of(w.pattern);
  ASSERT_FALSE(splits.empty());
  bool some_with_all_outliers = false;
  for (const Split& split : splits) {
    const CutBlocks cut = cut_blocks(*w.source, split.block_rows, split.block_cols, split.fewest);
    const PatternStats rest = pattern_stats(RestOfBlocks(*w.source, cut));
    const auto places = 512.0 / split.block_rows * (768.0 / split.block_cols);
    EXPECT_DOUBLE_EQ(split.stored, static_cast<double>(cut.blocks()) / places);
    EXPECT_EQ(split.rest.nnz, rest.nnz);
    EXPECT_EQ(split.rest.block_nnz, rest.block_nnz);
    const std::int64_t rows =
        std::accumulate(split.rest.row_nnz.begin(), split.rest.row_nnz.end(), std::int64_t{0});
    EXPECT_NEAR(static_cast<double>(rows), static_cast<double>(rest.nnz), 256);
    EXPECT_GT(rest.nnz, 0);
    some_with_all_outliers |= split.block_rows == 64 && cut.blocks() < 0.4 * places;
  }
  EXPECT_TRUE(some_with_all_outliers);
}

TEST(Splits, NoneWhereBlocksAreAlike) {
  EXPECT_TRUE(
      splits_of(TestWeight({512, 512, Pattern::kUniform, 0.3}, DType::kF16).pattern).empty());
  EXPECT_TRUE(splits_of(blocky_weight({.rows = 512, .cols = 512}, DType::kF16).pattern).empty());
  EXPECT_TRUE(
      splits_of(TestWeight({500, 500, Pattern::kUniform, 0.01}, DType::kF16).pattern).empty());
}

TEST(Splits, CutWhereTheSidesCross) {
  const TestWeight w = blocky_weight(kOutliers, DType::kBF16);
  const auto limits_of = [&](const Crossing& crossing) {
    std::vector<int> limits;
    for (const Split& split : splits_of(w.pattern, crossing))
      if (split.block_rows == 64) limits.push_back(split.fewest);
    return limits;
  };
  // Blocks are full or hold about eight of 4096: limits beyond those are all alike, and so are one
  // that finds nothing new.
  const std::vector<int> without = limits_of({});
  EXPECT_EQ(limits_of([](int) { return 0.5; }), without);
  const std::vector<int> with = limits_of([](int side) { return 11.0 / (side * side); });
  EXPECT_NE(std::ranges::find(with, 11), with.end());
  EXPECT_EQ(std::ranges::find(without, 11), without.end());
}

TEST(SplitCosts, CrossWhereABlockCostsTheSame) {
  BlockCalibration calibration;
  const BlockCurve curve{
      .dtype = DType::kBF16, .n = 512, .dense_ns = 4, .sparse_ns = 0.5, .sparse_slope = 200};
  EXPECT_NEAR(crossing_of(calibration, curve, 64), 0.02, 1e-12);
  calibration.timings = {
      {.dtype = DType::kBF16, .n = 512, .block_rows = 128, .block_cols = 128, .dense_ns = 3}};
  EXPECT_NEAR(crossing_of(calibration, curve, 128), 0.015, 1e-12);
  EXPECT_EQ(crossing_of(calibration, {.dense_ns = 4}, 64), 1);
}

TEST(SplitCosts, FollowTheCurves) {
  BlockCalibration calibration;
  calibration.curves = {{.dtype = DType::kBF16,
                         .n = 512,
                         .dense_ns = 4,
                         .sparse_ns = 0.5,
                         .sparse_slope = 200,
                         .call_us = 7}};
  calibration.timings = {
      {.dtype = DType::kBF16, .n = 512, .block_rows = 128, .block_cols = 128, .dense_ns = 3}};
  Split split{.block_rows = 128, .block_cols = 128, .fewest = 64, .stored = 0.25};
  split.rest.nnz = 10240;
  Problem problem{.m = 2048, .k = 4096, .n = 512};  // 8192 times 1024 positions.
  const auto costs = [&] { return costs_of(split, problem, calibration, calibration.curves[0]); };
  EXPECT_NEAR(costs().blocks_us, 7 + 0.25 * 8192 * 3e-3, 1e-9);
  EXPECT_NEAR(costs().rest_us, 10 * 200e-3 + 4096 * 0.5e-3, 1e-9);
  split.block_rows = split.block_cols = 64;
  EXPECT_NEAR(costs().blocks_us, 7 + 0.25 * 8192 * 4e-3, 1e-9) << "the curve's own";
  problem.n = 1024;
  EXPECT_NEAR(costs().blocks_us, 7 + 2 * 0.25 * 8192 * 4e-3, 1e-9);
  EXPECT_NEAR(costs().rest_us, 2 * (10 * 200e-3 + 4096 * 0.5e-3), 1e-9);
}

TEST(HybridFamily, EstimatesWhatTheCurvesSay) {
  const TestWeight w =
      blocky_weight({.rows = 4096, .cols = 2048, .scattered = 0.002}, DType::kBF16);
  const Problem problem{.m = 4096,
                        .k = 2048,
                        .n = 4096,
                        .weight = DType::kBF16,
                        .activations = DType::kBF16,
                        .output = DType::kBF16};
  cuda::DeviceFacts device = cuda::h100_facts();
  device.name = "a GPU that nobody calibrated";
  const BlockCalibration calibration = ordinary_calibration(device);
  const BlockCurve& curve = *calibration.curve(DType::kBF16, 4096);
  double best = 0;
  for (const Split& split :
       splits_of(w.pattern, [&](int side) { return crossing_of(calibration, curve, side); })) {
    const SplitCosts costs = costs_of(split, problem, calibration, curve);
    if (best == 0 || costs.blocks_us + costs.rest_us < best) best = costs.blocks_us + costs.rest_us;
  }
  EXPECT_NEAR(hybrid_family().candidates(problem, w.pattern, device).front().estimate_us, best,
              0.01 * best);
}

TEST(HybridFamily, SaysWhatItDoesNotTake) {
  const cuda::DeviceFacts device = cuda::h100_facts();
  const Problem good{.m = 1024, .k = 1024, .n = 512};
  EXPECT_TRUE(hybrid_family().supports(good, device));
  Problem p = good;
  p.n = 16;
  EXPECT_FALSE(hybrid_family().supports(p, device));
  p = good;
  p.activation = Activation::kGelu;
  EXPECT_NE(hybrid_family().supports(p, device).reason.find("no activation"), std::string::npos);
}

TEST(HybridFamily, OffersBothSidesWhereSomeBlocksAreNearlyEmpty) {
  const TestWeight w =
      blocky_weight({.rows = 4096, .cols = 2048, .scattered = 0.002}, DType::kBF16);
  const Problem problem{.m = 4096,
                        .k = 2048,
                        .n = 1024,
                        .weight = DType::kBF16,
                        .activations = DType::kBF16,
                        .output = DType::kBF16};
  const std::vector<Candidate> found =
      hybrid_family().candidates(problem, w.pattern, cuda::h100_facts());
  ASSERT_FALSE(found.empty());
  for (const Candidate& c : found) {
    EXPECT_TRUE(c.name.starts_with("hybrid.from")) << c.name;
    EXPECT_NE(c.name.find(".forward."), std::string::npos) << c.name;
    EXPECT_GT(c.estimate_us, 0);
  }
  // The rest by each of its families.
  std::ptrdiff_t by_any = 0;
  for (const std::string rest : {".sliced.", ".gather.", ".composed."}) {
    const auto by_rest = std::ranges::count_if(
        found, [&](const Candidate& c) { return c.name.find(rest) != std::string::npos; });
    EXPECT_GT(by_rest, 0) << rest;
    by_any += by_rest;
  }
  EXPECT_EQ(by_any, std::ssize(found));
}

class HybridOnDevice : public FamilyOnDevice {
 protected:
  HybridOnDevice()
      : FamilyOnDevice(hybrid_family(), {.one_dtype = true, .rounds = Rounds::kBetweenParts}) {}
};

TEST_F(HybridOnDevice, BlocksAndOutliers) {
  const TestWeight weight = blocky_weight(kOutliers, DType::kBF16);
  check_about(weight, {.n = 150, .output = DType::kBF16}, 3);
}

TEST_F(HybridOnDevice, BiasAndResidual) {
  const TestWeight weight = blocky_weight(kOutliers, DType::kF16);
  check_about(weight, {.n = 128, .bias = true, .residual = true}, 2);
  check_about(weight, {.n = 128, .bias = true}, 2);
}

TEST_F(HybridOnDevice, Expands) {
  const cuda::Stream stream;
  const TestWeight weight = blocky_weight(kOutliers, DType::kF16);
  const std::vector<Candidate> candidates = candidates_of(weight, {.m = 512, .k = 768, .n = 256});
  ASSERT_FALSE(candidates.empty());
  const std::unique_ptr<Operator> op = candidates.front().build(weight.weight(), stream);
  ASSERT_TRUE(op->expands());
  const cuda::DeviceBuffer dense(stream, weight.bytes.size());
  cuda::fill_bytes(stream, dense.address(), 0xFF, dense.size());
  op->expand(stream, dense.address());
  EXPECT_TRUE(cuda::download<std::byte>(stream, dense) == weight.bytes);
}

}  // namespace
}  // namespace rarefy::gpu
