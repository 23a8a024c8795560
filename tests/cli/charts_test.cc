#include "cli/charts.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace rarefy::cli {
namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
    ++found;
  return found;
}

TEST(Charts, DrawsEveryFinitePoint) {
  const Chart chart{.title = "t",
                    .x_label = "x",
                    .y_label = "y",
                    .log_y = true,
                    .series = {{"s",
                                {{1, 10, ""},
                                 {2, 100, ""},
                                 {3, 0, ""},
                                 {4, std::numeric_limits<double>::infinity(), ""}}}}};
  const std::string svg = chart_svg(chart);
  EXPECT_EQ(count(svg, "<circle"),
            2U);  // Zero has no place on a logarithmic axis, infinity on none.
  EXPECT_EQ(count(svg, "nan"), 0U);
}

TEST(Charts, LabelsGrowTowardsTheMiddle) {
  const std::string svg = chart_svg({.series = {{"", {{1, 1, "left"}, {9, 1, "right"}}}}});
  EXPECT_NE(svg.find("text-anchor=\"start\" font-size=\"10\" opacity=\"0.8\">left"),
            std::string::npos);
  EXPECT_NE(svg.find("text-anchor=\"end\" font-size=\"10\" opacity=\"0.8\">right"),
            std::string::npos);
}

TEST(Charts, SaysWhenThereIsNothing) {
  EXPECT_NE(chart_svg({.title = "empty"}).find("nothing to show"), std::string::npos);
}

TEST(Charts, EscapesText) {
  EXPECT_EQ(escaped("a<b & \"c\""), "a&lt;b &amp; &quot;c&quot;");
  EXPECT_NE(bars_svg("x", {{"<script>", 1, "1"}}).find("&lt;script&gt;"), std::string::npos);
}

TEST(Charts, MapsShowRaggedWeights) {
  std::vector<float> weight(40 * 50, 0.0F);
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 32; ++c)
      weight[static_cast<std::size_t>(r * 50 + c)] = 1.0F;  // The first block is full.
  }
  const PatternStats stats = pattern_stats(DenseSource({weight.data(), DType::kF32, 40, 50, 50}));
  const auto [least, most] = block_density_range(stats);
  EXPECT_EQ(least, 0.0);
  EXPECT_EQ(most, 1.0);
  const std::string svg = density_map(stats, "w");
  EXPECT_EQ(count(svg, "<rect"), 6U);  // 3 × 2 blocks.
  EXPECT_NE(svg.find("darkest cell 100.0 %"), std::string::npos);
}

}  // namespace
}  // namespace rarefy::cli
