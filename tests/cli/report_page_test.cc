// What the report draws of calibrations.
#include "cli/report_page.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace rarefy::cli {
namespace {

BlockCalibration of_a_gpu() {
  BlockCalibration c{.device = "a GPU", .build = "hash", .date = "2026-11-22"};
  for (const std::int64_t n : {128, 4096}) {
    for (const double density : {0.2, 0.01, 0.001})
      c.timings.push_back({DType::kF16, n, 64, 64, density, 2, 1 + 100 * density, 5, 1.5});
  }
  c.curves = fit_curves(c.timings);
  return c;
}

TEST(CalibrationChart, DrawsBothSidesOfEveryN) {
  const BlockCalibration calibration = of_a_gpu();
  EXPECT_TRUE(calibration_chart(calibration, DType::kBF16).series.empty());
  const Chart chart = calibration_chart(calibration, DType::kF16);
  ASSERT_EQ(chart.series.size(), 6U) << "two lines and what was measured, twice";
  for (const Series& series : chart.series) {
    EXPECT_FALSE(series.points.empty()) << series.name;
    // As far as was measured, down to a thousandth.
    const auto [low, high] = std::ranges::minmax_element(series.points, {}, &Point::x);
    EXPECT_NEAR(low->x, 0.1, 1e-9) << series.name;
    EXPECT_GT(high->x, 19) << series.name;
  }
}

}  // namespace
}  // namespace rarefy::cli
