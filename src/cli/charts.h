// Charts as self-contained SVG text: they stand in a report or alone in a browser, light or dark.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "rarefy/matrix.h"

namespace rarefy::cli {

struct Point {
  double x = 0, y = 0;
  std::string label;  ///< Drawn beside the point when not empty, and shown on hover.
};

struct Series {
  std::string name;
  std::vector<Point> points;
  bool line = true;   ///< Joined in the order given.
  bool marks = true;  ///< A dot at each point.
  bool dashed = false;
};

struct Chart {
  std::string title, x_label, y_label;
  bool log_x = false, log_y = false;
  std::vector<Series> series;
  int width = 640, height = 380;
};

/// Lines and dots over two linear or logarithmic axes with round ticks. Points that are not finite,
/// or not positive on a logarithmic axis, are left out.
std::string chart_svg(const Chart& chart);

struct Bar {
  std::string label;
  double value = 0;
  std::string text;  ///< At the bar's end.
  bool accent = false;
};

/// Horizontal bars from zero.
std::string bars_svg(const std::string& title, const std::vector<Bar>& bars);

/// Density of a weight as a picture of at most 96×64 cells, dark where it is dense; scale from 0 to
/// the densest cell, printed beside.
std::string density_map(const PatternStats& stats, const std::string& title);

/// Density of the emptiest and of the fullest block of the grid.
std::pair<double, double> block_density_range(const PatternStats& stats);

/// Text for HTML and SVG: & < > " escaped.
std::string escaped(const std::string& text);

}  // namespace rarefy::cli
