// Curves and their bands, the file they are kept in, and the hybrids that are cut by them.
#include "rarefy/calibration.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "io/expect_error.h"
#include "ops/spmm/calibration/calibration_file.h"
#include "planner/ceilings.h"
#include "planner/partition.h"
#include "planner/plan_cache.h"
#include "rarefy/cpu.h"
#include "rarefy/log.h"
#include "rarefy/planner.h"
#include "temporary_folder.h"

namespace rarefy {
namespace {

using planning::testing::TemporaryFolder;

/// Dense side 80 + 20 d, sparse side 4 + 1600 d: they cross at 76 / 1580 = 4.8 %.
constexpr BlockCurve kCurve{DType::kBF16, 128, 80, 20, 4, 1600};

TEST(BlockCurve, BandsMeetWhereTheSidesDifferByTheMargin) {
  EXPECT_NEAR(kCurve.sparse_until(), 76.0 / 1580, 1e-12);
  const double low = kCurve.sparse_until(BlockCurve::kMargin);
  const double high = kCurve.sparse_until(1 / BlockCurve::kMargin);
  EXPECT_NEAR(kCurve.sparse_side(low) * BlockCurve::kMargin, kCurve.dense_side(low), 1e-9);
  EXPECT_NEAR(kCurve.dense_side(high) * BlockCurve::kMargin, kCurve.sparse_side(high), 1e-9);
  EXPECT_EQ(kCurve.band(0), Band::kEmpty);
  EXPECT_EQ(kCurve.band(low * 0.99), Band::kSparse);
  EXPECT_EQ(kCurve.band(76.0 / 1580), Band::kSwing);
  EXPECT_EQ(kCurve.band(high * 1.01), Band::kDense);
  // A side that always wins.
  EXPECT_EQ((BlockCurve{DType::kBF16, 128, 1, 0, 2, 0}.sparse_until()), 0);
  EXPECT_EQ((BlockCurve{DType::kBF16, 128, 2, 0, 1, 0}.sparse_until()), 1);
}

TEST(BlockCurve, FitFindsTheLinesOfEveryDtypeAndN) {
  std::vector<BlockTiming> timings;
  for (const BlockCurve& curve : {kCurve, BlockCurve{DType::kF32, 512, 900, 0, 0, 2000}}) {
    for (const double density : {0.005, 0.02, 0.1, 0.5})
      timings.push_back({curve.dtype, curve.n, 64, 64, density, curve.dense_side(density),
                         curve.sparse_side(density)});
  }
  const std::vector<BlockCurve> fitted = fit_curves(timings);
  ASSERT_EQ(fitted.size(), 2U);
  EXPECT_NEAR(fitted[0].dense_ns, 80, 1e-6);
  EXPECT_NEAR(fitted[0].dense_slope, 20, 1e-6);
  EXPECT_NEAR(fitted[0].sparse_ns, 4, 1e-6);
  EXPECT_NEAR(fitted[0].sparse_slope, 1600, 1e-6);
  EXPECT_EQ(fitted[1].dtype, DType::kF32);
  EXPECT_NEAR(fitted[1].dense_ns, 900, 1e-6);
  EXPECT_NEAR(fitted[1].sparse_slope, 2000, 1e-6);
  // A falling line becomes flat, a constant below zero becomes zero.
  const std::vector<BlockCurve> bounded =
      fit_curves({{DType::kBF16, 32, 64, 64, 0.1, 10, 1}, {DType::kBF16, 32, 64, 64, 0.5, 5, 9}});
  EXPECT_EQ(bounded[0].dense_slope, 0);
  EXPECT_EQ(bounded[0].sparse_ns, 0);
  EXPECT_GT(bounded[0].sparse_slope, 0);
}

TEST(BlockCurve, FitTakesTheMeanOfWhatHasNoDensity) {
  const std::vector<BlockCurve> fitted = fit_curves(
      {{DType::kBF16, 32, 64, 64, 0.1, 10, 1, 2, 8}, {DType::kBF16, 32, 64, 64, 0.5, 10, 9, 4, 8}});
  EXPECT_EQ(fitted[0].call_us, 3);
  EXPECT_EQ(fitted[0].whole_ns, 8);
}

TEST(BlockCalibration, KnowsWhatEachShapeCostsStored) {
  BlockCalibration c;
  c.timings = {{DType::kBF16, 128, 64, 64, 0.1, 10, 1},
               {DType::kBF16, 128, 64, 64, 0.5, 12, 1},
               {DType::kBF16, 128, 128, 128, 0.1, 7, 1},
               {DType::kF16, 128, 64, 64, 0.1, 90, 1},
               {DType::kBF16, 4096, 64, 64, 0.1, 400, 1}};
  EXPECT_EQ(c.stored_ns(kCurve, 64, 64), 11);
  EXPECT_EQ(c.stored_ns(kCurve, 128, 128), 7);
  EXPECT_EQ(c.stored_ns(kCurve, 32, 32), kCurve.dense_ns) << "not measured";
}

TEST(BlockCalibration, TakesTheCurveOfTheNearestN) {
  BlockCalibration c;
  for (const std::int64_t n : {32, 128, 512}) c.curves.push_back({DType::kBF16, n, 1, 0, 1, 0});
  EXPECT_EQ(c.curve(DType::kBF16, 40)->n, 32);
  EXPECT_EQ(c.curve(DType::kBF16, 100)->n, 128);
  EXPECT_EQ(c.curve(DType::kBF16, 4096)->n, 512);
  EXPECT_EQ(c.curve(DType::kF32, 128), nullptr);
}

TEST(CalibrationFile, IsUsedOnItsOwnMachineAndBuildOnly) {
  const TemporaryFolder folder;
  const CalibrationKey key = cpu_calibration_key(2);
  std::string reason;
  EXPECT_FALSE(find_calibration(folder.path(), key, reason));
  EXPECT_NE(reason.find("there is none"), std::string::npos) << reason;

  BlockCalibration kept{key.device,
                        key.build,
                        "2026-11-21",
                        {kCurve},
                        {{DType::kBF16, 128, 64, 512, 0.25, 85, 404, 12, 9}}};
  kept.curves[0].call_us = 11;
  kept.curves[0].whole_ns = 8;
  store_calibration(folder.path(), key.file, kept);
  const auto found = find_calibration(folder.path(), key, reason);
  ASSERT_TRUE(found) << reason;
  EXPECT_EQ(reason, "");
  EXPECT_EQ(found->date, "2026-11-21");
  EXPECT_EQ(found->curves[0].sparse_slope, 1600);
  EXPECT_EQ(found->curves[0].call_us, 11);
  EXPECT_EQ(found->curves[0].whole_ns, 8);
  EXPECT_EQ(found->timings[0].block_cols, 512);
  EXPECT_EQ(found->timings[0].call_us, 12);
  EXPECT_EQ(found->timings[0].whole_ns, 9);

  EXPECT_FALSE(find_calibration(folder.path(), {"another CPU", key.build}, reason));
  EXPECT_NE(reason.find("of another device"), std::string::npos) << reason;
  EXPECT_NE(reason.find("rarefy calibrate makes it again"), std::string::npos) << reason;
  EXPECT_FALSE(find_calibration(folder.path(), {key.device, "another build"}, reason));
  EXPECT_NE(reason.find("of another build's kernels"), std::string::npos) << reason;

  const std::string path = (folder.path() / "calibration.json").string();
  for (const char* damage : {"{", "[]", R"({"version":1})", R"({"version":9})"}) {
    std::ofstream(path) << damage;
    EXPECT_FALSE(find_calibration(folder.path(), key, reason)) << damage;
    EXPECT_NE(reason.find("cannot be read"), std::string::npos) << reason;
  }
}

class PlannerCalibration : public ::testing::Test {
 protected:
  PlannerCalibration() {
    planning::PlanCache(folder.path())
        .store_ceilings(planning::machine_key(pool.size()), {{40, 200, 3}});
  }
  ~PlannerCalibration() override { set_log({}); }
  [[nodiscard]] Planner planner() { return Planner({.cache_dir = folder.path()}, pool); }

  TemporaryFolder folder;
  ThreadPool pool{2};
  CalibrateOptions small{.dtypes = {DType::kBF16, DType::kF32},
                         .ns = {17},
                         .sparsities = {0.5, 0.9},
                         .blocks = {{32, 32}, {64, 32}},
                         .rows = 96,
                         .cols = 128,
                         .rounds = 1};
};

TEST_F(PlannerCalibration, MeasuresAndKeepsTheCurves) {
  Planner first = planner();
  std::string reason;
  EXPECT_FALSE(first.calibration(&reason));
  EXPECT_NE(reason, "");
  const BlockCalibration made = first.calibrate(small);
  ASSERT_EQ(made.curves.size(), 2U);
  ASSERT_EQ(made.timings.size(), 8U);
  for (const BlockTiming& t : made.timings) EXPECT_GT(t.sparse_ns, 0);
  EXPECT_TRUE(first.calibration(&reason));
  EXPECT_EQ(reason, "");
  const auto found = planner().calibration();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->date, made.date);
  EXPECT_EQ(found->curves.size(), made.curves.size());
}

TEST_F(PlannerCalibration, SaysAloudThatOneOfAnotherMachineIsNotUsed) {
  store_calibration(folder.path(), "calibration.json",
                    {"another CPU", "hash", "2026-11-21", {kCurve}, {}});
  std::string heard;
  set_log([&](std::string_view line) { heard += line; });
  Planner p = planner();
  EXPECT_FALSE(p.calibration());
  EXPECT_FALSE(p.calibration());
  EXPECT_EQ(heard.find("calibration not used"), 0U) << heard;
  EXPECT_EQ(heard.find("calibration not used", 1), std::string::npos) << "said twice: " << heard;
}

TEST_F(PlannerCalibration, RefusesWhatCannotBeMeasured) {
  const auto refuses = [&](const char* what, const auto& change) {
    CalibrateOptions options = small;
    change(options);
    Planner p = planner();
    testing::expect_error([&] { p.calibrate(options); }, ErrorKind::kInvalidArgument, {what});
  };
  refuses("multiples of 32x32, got 48x32", [](CalibrateOptions& o) { o.blocks[1] = {48, 32}; });
  refuses("n: expected at least 17, got 16", [](CalibrateOptions& o) { o.ns = {16}; });
  refuses("sparsities", [](CalibrateOptions& o) { o.sparsities = {1.0}; });
  refuses("dtypes", [](CalibrateOptions& o) { o.dtypes = {DType::kF16}; });
  refuses("got none", [](CalibrateOptions& o) { o.blocks.clear(); });
}

TEST_F(PlannerCalibration, SaysAtOnceThatItCannotBeKept) {
  const std::filesystem::path file = folder.path() / "file";
  std::ofstream(file) << "no folder";
  Planner p({.cache_dir = file / "cache"}, pool);
  CalibrateOptions endless = small;
  endless.rounds = 1 << 30;
  testing::expect_error([&] { p.calibrate(endless); }, ErrorKind::kIo,
                        {"file/cache", "a folder that can be written"});
}

/// Blocks of 64×64 of these densities, in turn.
PatternStats pattern_of(const std::vector<double>& densities, std::int64_t dead_rows = 0) {
  constexpr std::int64_t kSide = 512;
  std::mt19937 random(2);
  std::uniform_real_distribution<double> unit;
  std::vector<BFloat16> values(kSide * kSide);
  for (std::int64_t r = 0; r < kSide; ++r) {
    for (std::int64_t c = 0; c < kSide; ++c) {
      const auto block = static_cast<std::size_t>(r / 64 * (kSide / 64) + c / 64);
      const bool kept = unit(random) < densities[block % densities.size()] &&
                        (dead_rows == 0 || r % dead_rows != 0);
      values[static_cast<std::size_t>(r * kSide + c)] = convert<BFloat16>(kept ? 1.0F : 0.0F);
    }
  }
  return pattern_stats(DenseSource({values.data(), DType::kBF16, kSide, kSide, kSide}));
}

TEST(Partition, CutsWhereTheCurvesSay) {
  PlanRequest request;
  request.workloads = {{1, 1.0}, {128, 0.05}};
  BlockCalibration calibration;
  calibration.curves = {kCurve};
  const auto formats_of = [&](const PatternStats& p) {
    return planning::hybrid_formats(p, DType::kBF16, request, &calibration);
  };
  // All alike: nothing to cut.
  EXPECT_TRUE(formats_of(pattern_of({0.3})).empty());
  // A third of the blocks empty: tiles alone.
  EXPECT_EQ(formats_of(pattern_of({0.3, 0.0, 0.5})),
            std::vector<FormatSpec>{format::hybrid(32, 32, 0)});
  // Two thirds thin: lists below 76 / 1580 · 1024 = 49 of 1024.
  const std::vector<FormatSpec> split = formats_of(pattern_of({0.3, 0.005, 0.005}));
  ASSERT_EQ(split.size(), 1U);
  EXPECT_EQ(split[0].sparse_below, 49);
  // Every fourth row dead: sorting is tried.
  const std::vector<FormatSpec> sorted = formats_of(pattern_of({0.3}, 4));
  EXPECT_NE(std::find(sorted.begin(), sorted.end(), format::hybrid(32, 32, 0, true)), sorted.end());

  request.workloads = {{16, 1.0}};
  EXPECT_TRUE(formats_of(pattern_of({0.3, 0.0})).empty()) << "few tokens";
  request.workloads = {{128, 1.0}};
  EXPECT_TRUE(
      planning::hybrid_formats(pattern_of({0.3, 0.0}), DType::kF32, request, nullptr).empty());
  request.formats = {format::kBitmap};
  EXPECT_TRUE(formats_of(pattern_of({0.3, 0.0})).empty()) << "not asked for";
}

TEST(Partition, NothingIsCutOfEmptyAndFullWeights) {
  PlanRequest request;
  request.workloads = {{128, 1.0}};
  BlockCalibration calibration;
  calibration.curves = {kCurve};
  for (const double density : {0.0, 1.0}) {
    const PatternStats pattern = pattern_of({density});
    EXPECT_TRUE(planning::hybrid_formats(pattern, DType::kBF16, request, &calibration).empty())
        << density;
  }
  const PatternStats none = pattern_stats(DenseSource({nullptr, DType::kBF16, 0, 64, 64}));
  EXPECT_TRUE(planning::hybrid_formats(none, DType::kBF16, request, &calibration).empty());
}

TEST_F(PlannerCalibration, PlansAndRunsEmptyAndFullWeights) {
  PlanRequest request;
  request.workloads = {{20, 1.0}};
  request.activations = request.output = DType::kF32;
  request.precision = Precision::kBf16;
  request.working_set = 0;
  request.measure_best = 2;
  Planner p = planner();
  for (const float value : {0.0F, 1.0F}) {
    const std::vector<BFloat16> values(96 * 70, convert<BFloat16>(value));
    const auto source =
        std::make_shared<DenseSource>(ConstMatrixRef{values.data(), DType::kBF16, 96, 70, 70});
    const Linear linear = make_linear(source, p, request, pool);
    const std::vector<float> b(std::size_t{20} * 70, 1.0F);
    std::vector<float> c(std::size_t{20} * 96, -1.0F);
    SpmmArgs args;
    args.b = matrix_ref(b.data(), 20, 70);
    args.c = matrix_ref(c.data(), 20, 96);
    args.precision = Precision::kBf16;
    linear.run(args, pool);
    for (const float x : c) ASSERT_EQ(x, 70 * value) << linear.plan().format.name();
  }
}

TEST_F(PlannerCalibration, HybridsCompeteWithTheOthers) {
  if (active_isa() < Isa::kAmx) GTEST_SKIP() << "this CPU has no AMX";
  std::vector<BFloat16> values(256 * 256);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t block = i / 256 / 64 + i % 256 / 64;
    values[i] = convert<BFloat16>(block % 2 == 0 && i % 3 == 0 ? 1.0F : 0.0F);
  }
  PlanRequest request;
  request.workloads = {{64, 1.0}};
  request.activations = DType::kBF16;
  request.precision = Precision::kBf16;
  request.measure_best = 0;
  request.working_set = 0;
  Planner p = planner();
  const Plan plan = p.plan(DenseSource({values.data(), DType::kBF16, 256, 256, 256}), request);
  const auto hybrid =
      std::find_if(plan.candidates.begin(), plan.candidates.end(),
                   [](const Candidate& c) { return c.format == format::hybrid(32, 32, 0); });
  ASSERT_NE(hybrid, plan.candidates.end());
  EXPECT_EQ(hybrid->kernel, "hybrid.amx");
  EXPECT_GT(hybrid->estimate_us, 0);
}

}  // namespace
}  // namespace rarefy
