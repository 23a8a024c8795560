#include "cli/charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

namespace rarefy::cli {
namespace {

/// Eight hues that stay apart for colour-blind readers (Okabe and Ito 2008).
constexpr std::array<const char*, 8> kHues = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                              "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f"};

constexpr int kLeft = 62, kRight = 16, kTop = 34, kBottom = 48;

std::string open_svg(int width, int height) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" font-family=\"system-ui,sans-serif\" "
      "font-size=\"12\" fill=\"currentColor\">\n",
      width, height);
}

std::string text_at(double x, double y, const std::string& text, const char* anchor,
                    const std::string& more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" {}>{}</text>\n", x, y,
                     anchor, more, escaped(text));
}

/// One axis: data range, scale, round ticks.
class Axis {
 public:
  Axis(double low, double high, bool logarithmic, double begin, double end)
      : log_(logarithmic), begin_(begin), end_(end) {
    if (log_) {
      low_ = std::pow(10, std::floor(std::log10(low) * 2) / 2);
      high_ = std::pow(10, std::ceil(std::log10(high) * 2) / 2);
      if (low_ == high_) high_ *= 10;
      return;
    }
    if (low > 0 && low < 0.6 * high) low = 0;  // From zero, unless that would hide the differences.
    if (high <= low) high = low + 1;
    step_ = round_step((high - low) / 6);
    low_ = std::floor(low / step_) * step_;
    high_ = std::ceil(high / step_) * step_;
  }

  [[nodiscard]] double at(double value) const {
    const double share =
        log_ ? std::log(value / low_) / std::log(high_ / low_) : (value - low_) / (high_ - low_);
    return begin_ + share * (end_ - begin_);
  }

  [[nodiscard]] std::vector<double> ticks() const {
    std::vector<double> result;
    if (!log_) {
      for (int i = 0; low_ + i * step_ <= high_ * (1 + 1e-9); ++i)
        result.push_back(low_ + i * step_);
      return result;
    }
    const bool narrow = high_ / low_ <= 110;
    for (double decade = std::pow(10, std::floor(std::log10(low_))); decade <= high_;
         decade *= 10) {
      for (double factor : {1.0, 2.0, 5.0}) {
        const double tick = decade * factor;
        if ((narrow || factor == 1.0) && tick >= low_ * 0.999 && tick <= high_ * 1.001)
          result.push_back(tick);
      }
    }
    return result;
  }

 private:
  static double round_step(double raw) {
    const double decade = std::pow(10, std::floor(std::log10(raw)));
    for (double factor : {1.0, 2.0, 2.5, 5.0}) {
      if (raw <= decade * factor) return decade * factor;
    }
    return decade * 10;
  }

  bool log_;
  double low_ = 0, high_ = 1, step_ = 1, begin_, end_;
};

std::string tick_text(double value) {
  if (value == 0) return "0";
  const double magnitude = std::abs(value);
  if (magnitude >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (magnitude >= 1e4) return fmt::format("{:g}k", value / 1e3);
  return fmt::format("{:.4g}", value);
}

bool drawable(const Chart& chart, const Point& p) {
  return std::isfinite(p.x) && std::isfinite(p.y) && (!chart.log_x || p.x > 0) &&
         (!chart.log_y || p.y > 0);
}

std::string series_svg(const Chart& chart, const Series& series, const Axis& x, const Axis& y,
                       const char* hue) {
  std::string path;
  std::string marks;
  for (const Point& p : series.points) {
    if (!drawable(chart, p)) continue;
    const double px = x.at(p.x);
    const double py = y.at(p.y);
    path += fmt::format("{}{:.1f},{:.1f} ", path.empty() ? "M" : "L", px, py);
    if (series.marks) {
      marks += fmt::format(
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"{}\"><title>{}: {:.4g}, "
          "{:.4g}</title></circle>\n",
          px, py, hue, escaped(p.label.empty() ? series.name : p.label), p.x, p.y);
    }
    if (!p.label.empty()) {
      // Labels grow towards the middle: at the right edge they would leave the picture.
      const bool right = px > chart.width / 2.0;
      marks += text_at(right ? px - 6 : px + 6, py - 6, p.label, right ? "end" : "start",
                       "font-size=\"10\" opacity=\"0.8\"");
    }
  }
  std::string out;
  if (series.line) {
    out += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>\n", path,
                       hue, series.dashed ? " stroke-dasharray=\"6 4\"" : "");
  }
  return out + marks;
}

std::string heat_colour(double share) {
  // From near-white to deep blue through teal: even steps to the eye, readable in print.
  constexpr std::array<std::array<double, 3>, 4> kStops = {
      {{247, 251, 255}, {158, 202, 225}, {33, 113, 181}, {8, 29, 88}}};
  const double place = std::clamp(share, 0.0, 1.0) * (kStops.size() - 1);
  const auto stop = std::min<std::size_t>(static_cast<std::size_t>(place), kStops.size() - 2);
  const double t = place - static_cast<double>(stop);
  std::array<int, 3> rgb{};
  for (std::size_t i = 0; i < 3; ++i)
    rgb[i] = static_cast<int>(std::lround(kStops[stop][i] * (1 - t) + kStops[stop + 1][i] * t));
  return fmt::format("#{:02x}{:02x}{:02x}", rgb[0], rgb[1], rgb[2]);
}

/// Elements of block (r, c), edge blocks being smaller.
double block_elements(const PatternStats& s, std::int64_t r, std::int64_t c) {
  const std::int64_t rows = std::min<std::int64_t>(s.block_rows, s.rows - r * s.block_rows);
  const std::int64_t cols = std::min<std::int64_t>(s.block_cols, s.cols - c * s.block_cols);
  return static_cast<double>(rows * cols);
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string chart_svg(const Chart& chart) {
  constexpr double kMax = std::numeric_limits<double>::max();
  double x_low = kMax;
  double x_high = -kMax;
  double y_low = kMax;
  double y_high = -kMax;
  for (const Series& series : chart.series) {
    for (const Point& p : series.points) {
      if (!drawable(chart, p)) continue;
      x_low = std::min(x_low, p.x);
      x_high = std::max(x_high, p.x);
      y_low = std::min(y_low, p.y);
      y_high = std::max(y_high, p.y);
    }
  }
  std::string out = open_svg(chart.width, chart.height);
  out +=
      text_at(chart.width / 2.0, 18, chart.title, "middle", "font-size=\"14\" font-weight=\"600\"");
  if (x_low > x_high)
    return out + text_at(chart.width / 2.0, chart.height / 2.0, "nothing to show", "middle") +
           "</svg>\n";

  const Axis x(x_low, x_high, chart.log_x, kLeft, chart.width - kRight);
  const Axis y(y_low, y_high, chart.log_y, chart.height - kBottom, kTop);
  for (double tick : x.ticks()) {
    const double px = x.at(tick);
    out += fmt::format(
        "<path d=\"M{0:.1f},{1}V{2}\" stroke=\"currentColor\" stroke-opacity=\"0.12\"/>\n", px,
        kTop, chart.height - kBottom);
    out += text_at(px, chart.height - kBottom + 16, tick_text(tick), "middle", "opacity=\"0.75\"");
  }
  for (double tick : y.ticks()) {
    const double py = y.at(tick);
    out += fmt::format(
        "<path d=\"M{0},{1:.1f}H{2}\" stroke=\"currentColor\" stroke-opacity=\"0.12\"/>\n", kLeft,
        py, chart.width - kRight);
    out += text_at(kLeft - 6, py + 4, tick_text(tick), "end", "opacity=\"0.75\"");
  }
  out += text_at((kLeft + chart.width - kRight) / 2.0, chart.height - 10, chart.x_label, "middle");
  out += text_at(
      14, (kTop + chart.height - kBottom) / 2.0, chart.y_label, "middle",
      fmt::format("transform=\"rotate(-90 14 {:.1f})\"", (kTop + chart.height - kBottom) / 2.0));
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    const char* hue = kHues[i % kHues.size()];
    out += series_svg(chart, chart.series[i], x, y, hue);
    if (chart.series[i].name.empty()) continue;
    const int row = kTop + 12 + 16 * static_cast<int>(i);
    out += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{}\"/>\n",
                       kLeft + 10, row - 6, hue);
    out += text_at(kLeft + 30, row, chart.series[i].name, "start");
  }
  return out + "</svg>\n";
}

std::string bars_svg(const std::string& title, const std::vector<Bar>& bars) {
  constexpr int kWidth = 640;
  constexpr int kRow = 24;
  constexpr int kLabels = 190;
  double largest = 0;
  for (const Bar& bar : bars) largest = std::max(largest, bar.value);
  const int height = kTop + kRow * static_cast<int>(bars.size()) + 8;
  std::string out = open_svg(kWidth, height);
  out += text_at(kWidth / 2.0, 18, title, "middle", "font-size=\"14\" font-weight=\"600\"");
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double y = kTop + kRow * static_cast<double>(i);
    const double width = largest > 0 ? bars[i].value / largest * (kWidth - kLabels - 110) : 0;
    out += text_at(kLabels - 8, y + 15, bars[i].label, "end");
    out += fmt::format(
        "<rect x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" rx=\"2\" fill=\"{}\"/>\n",
        kLabels, y + 3, std::max(1.0, width), kRow - 7, kHues[bars[i].accent ? 1 : 0]);
    out += text_at(kLabels + width + 8, y + 15, bars[i].text, "start");
  }
  return out + "</svg>\n";
}

std::pair<double, double> block_density_range(const PatternStats& s) {
  if (s.block_nnz.empty()) return {0, 0};
  const std::int64_t columns = (s.cols + s.block_cols - 1) / s.block_cols;
  double least = 1;
  double most = 0;
  for (std::size_t i = 0; i < s.block_nnz.size(); ++i) {
    const auto block = static_cast<std::int64_t>(i);
    const double density = s.block_nnz[i] / block_elements(s, block / columns, block % columns);
    least = std::min(least, density);
    most = std::max(most, density);
  }
  return {least, most};
}

std::string density_map(const PatternStats& s, const std::string& title) {
  constexpr std::int64_t kMaxColumns = 96;
  constexpr std::int64_t kMaxRows = 64;
  constexpr double kCell = 6;
  const std::int64_t block_columns = s.cols > 0 ? (s.cols + s.block_cols - 1) / s.block_cols : 0;
  const std::int64_t block_rows = s.rows > 0 ? (s.rows + s.block_rows - 1) / s.block_rows : 0;
  const std::int64_t columns = std::min(block_columns, kMaxColumns);
  const std::int64_t rows = std::min(block_rows, kMaxRows);
  std::vector<double> density(static_cast<std::size_t>(rows * columns));
  double most = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      double nnz = 0;
      double elements = 0;
      for (std::int64_t br = r * block_rows / rows; br < (r + 1) * block_rows / rows; ++br) {
        for (std::int64_t bc = c * block_columns / columns; bc < (c + 1) * block_columns / columns;
             ++bc) {
          nnz += s.block_nnz[static_cast<std::size_t>(br * block_columns + bc)];
          elements += block_elements(s, br, bc);
        }
      }
      const double share = elements > 0 ? nnz / elements : 0;
      density[static_cast<std::size_t>(r * columns + c)] = share;
      most = std::max(most, share);
    }
  }
  const int width = std::max(300, static_cast<int>(kCell * static_cast<double>(columns)) + 20);
  const int height = static_cast<int>(kCell * static_cast<double>(rows)) + 62;
  std::string out = open_svg(width, height);
  out += text_at(10, 18, title, "start", "font-weight=\"600\"");
  out += "<g shape-rendering=\"crispEdges\">\n";  // No seams between cells when scaled.
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      const double share = density[static_cast<std::size_t>(r * columns + c)];
      out += fmt::format(
          "<rect x=\"{:.0f}\" y=\"{:.0f}\" width=\"{:.0f}\" height=\"{:.0f}\" fill=\"{}\"/>",
          10 + kCell * static_cast<double>(c), 28 + kCell * static_cast<double>(r), kCell, kCell,
          heat_colour(most > 0 ? share / most : 0));
    }
    out += '\n';
  }
  out += "</g>\n";
  const double foot = 28 + kCell * static_cast<double>(rows) + 18;
  out += text_at(10, foot,
                 fmt::format("{}×{}, {:.1f} % stored; darkest cell {:.1f} %", s.rows, s.cols,
                             100 * s.density(), 100 * most),
                 "start", "font-size=\"11\" opacity=\"0.8\"");
  return out + "</svg>\n";
}

}  // namespace rarefy::cli
