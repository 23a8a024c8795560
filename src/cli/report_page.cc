#include "cli/report_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <ctime>

#include "cli/terminal.h"
#include "cli/version.h"
#include "rarefy/checkpoint.h"
#include "rarefy/cpu.h"
#include "rarefy/threads.h"

namespace rarefy::cli {
namespace {

std::string section(const std::string& title, const std::string& body) {
  return "<section>\n<h2>" + escaped(title) + "</h2>\n" + body + "</section>\n";
}

std::string figure(const std::string& svg, const std::string& caption) {
  return "<figure>" + svg + "<figcaption>" + escaped(caption) + "</figcaption></figure>\n";
}

std::string html_table(const TextTable& table) {
  std::string out = "<table><tr>";
  for (const std::string& cell : table.header) out += "<th>" + escaped(cell) + "</th>";
  out += "</tr>\n";
  for (const auto& row : table.rows) {
    out += "<tr>";
    for (const std::string& cell : row) {
      const bool numeric = !cell.empty() && std::isdigit(static_cast<unsigned char>(cell[0])) != 0;
      out += (numeric ? "<td class=\"n\">" : "<td>") + escaped(cell) + "</td>";
    }
    out += "</tr>\n";
  }
  return out + "</table>\n";
}

double number(const OrderedJson& row, const char* key) {
  return row.contains(key) && row[key].is_number() ? row[key].get<double>() : 0.0;
}

std::string word(const OrderedJson& row, const char* key) {
  return row.contains(key) && row[key].is_string() ? row[key].get<std::string>() : "";
}

std::string models_section(const ReportFacts& facts) {
  std::string body = html_table(models_table(facts));
  if (!facts.text_name.empty()) {
    const Perplexity& first = facts.models.front().perplexity;
    body += figure(chart_svg(quality_chart(facts.models)),
                   fmt::format("Perplexity on {} with {} windows of {} tokens.", facts.text_name,
                               first.windows, first.context));
  }
  return section("Models", body);
}

std::string text_section(const ReportFacts& facts) {
  if (facts.prompt.empty()) return "";
  std::string body;
  for (const ModelFacts& m : facts.models) {
    body += fmt::format("<h3>{}</h3><blockquote><b>{}</b>{}</blockquote>\n", escaped(m.name),
                        escaped(facts.prompt), escaped(m.generation.text));
  }
  return section("What they write (greedy)", body);
}

std::string plan_section(const ModelFacts& model) {
  std::vector<Bar> bars;
  for (const auto& [format, count] : model.formats)
    bars.push_back({format, static_cast<double>(count),
                    std::to_string(count) + (count == 1 ? " weight" : " weights"),
                    !format.starts_with("dense")});
  return section("Kernels chosen for " + model.name,
                 figure(bars_svg("Formats chosen", bars),
                        "Each weight got the format and kernel that was fastest for it on this "
                        "machine; dense always competed.") +
                     "<details><summary>every weight</summary><pre>" + escaped(model.plans) +
                     "</pre></details>\n");
}

std::string maps_section(const ModelFacts& model, int count) {
  const auto checkpoint = Checkpoint::open(model.directory);
  std::string body =
      "<p>Darker cells hold more nonzeros: pruned weights are not uniform, and plans use "
      "that.</p>\n<div class=\"maps\">\n";
  int shown = 0;
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    if (shown == count) break;
    if (tensor.shape.size() != 2 || !is_compute_dtype(tensor.dtype) ||
        tensor.name.find("layers.") == std::string::npos)
      continue;
    const PatternStats stats = pattern_stats(*checkpoint->source(tensor.name));
    body += density_map(stats, tensor.name);
    ++shown;
  }
  return section("Where the nonzeros are: " + model.name, body + "</div>\n");
}

bool is_chosen(const OrderedJson& row) {
  return row.contains("chosen") && row["chosen"].is_boolean() && row["chosen"].get<bool>();
}

std::string problem_name(const OrderedJson& row) {
  const std::string pattern = word(row, "pattern");
  return fmt::format("{}, N={:.0f}, {}{}", word(row, "shape"), number(row, "n"), word(row, "dtype"),
                     pattern.empty() || pattern == "uniform" ? "" : ", " + pattern);
}

std::string ops_section(const ReportFacts& facts) {
  if (facts.ops.empty()) return "";
  TextTable table{{"problem", "zeros", "method", "format", "median", "GB/s", "× best dense", ""},
                  {}};
  for (const OrderedJson& row : facts.ops) {
    table.rows.push_back({problem_name(row), percent(number(row, "sparsity"), 0),
                          word(row, "method"), word(row, "format"),
                          human_time_us(number(row, "median_us")),
                          fmt::format("{:.1f}", number(row, "gb_per_s")),
                          fmt::format("{:.2f}", number(row, "speedup_vs_best_dense")),
                          is_chosen(row) ? "chosen" : ""});
  }
  return section(
      "Operators on real layer shapes",
      figure(chart_svg(speed_chart(facts.ops)),
             "Both timed in the same run, weights streamed from memory; above 1 is a gain.") +
          figure(chart_svg(roofline_chart(facts.ops, facts.ceilings)),
                 "No kernel can lie below the dashed line; the distance to it is what decoding "
                 "costs.") +
          "<details><summary>every method</summary>" + html_table(table) + "</details>\n");
}

bool is_prompt(const OrderedJson& row) {
  return number(row, "n_prompt") > 0;
}

/// "my-model tg128"
std::string test_name(const OrderedJson& row) {
  return std::filesystem::path(word(row, "model_filename")).filename().string() + " " +
         (is_prompt(row) ? fmt::format("pp{:.0f}", number(row, "n_prompt"))
                         : fmt::format("tg{:.0f}", number(row, "n_gen")));
}

std::string bench_section(const OrderedJson& rows) {
  if (rows.empty()) return "";
  std::vector<Bar> bars;
  for (const OrderedJson& row : rows) {
    if (!is_prompt(row))
      bars.push_back({test_name(row), number(row, "avg_ts"),
                      fmt::format("{:.2f} tokens/s", number(row, "avg_ts")),
                      number(row, "model_size") < 0.95 * number(row, "dense_size")});
  }
  return section("Whole models",
                 figure(bars_svg("Tokens a second", bars), "Generation, one token at a time.") +
                     html_table(bench_table(rows)));
}

std::string calibration_section(const std::optional<BlockCalibration>& calibration) {
  if (!calibration) return "";
  std::string body;
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const Chart chart = calibration_chart(*calibration, dtype);
    if (!chart.series.empty())
      body += figure(chart_svg(chart),
                     "Dashed: blocks as a whole; solid: one nonzero after the other. Left of where "
                     "they cross a block is sparse, right of it dense.");
  }
  // What a GPU's dense product of the whole weight takes is known, too.
  TextTable bands{{"dtype", "N", "sparse below", "dense from", "in a dense product, ns"}, {}};
  for (const BlockCurve& c : calibration->curves)
    bands.rows.push_back({to_string(c.dtype), fmt::format("{}", c.n),
                          percent(c.sparse_until(BlockCurve::kMargin)),
                          percent(c.sparse_until(1 / BlockCurve::kMargin)),
                          c.whole_ns > 0 ? fmt::format("{:.2f}", c.whole_ns) : "-"});
  return section(
      fmt::format("What blocks cost: {} ({})", escaped(calibration->device), calibration->date),
      body + html_table(bands));
}

constexpr const char* kStyle = R"(<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{margin-top:2.5rem;border-bottom:1px solid #8884;padding-bottom:.2rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:1rem 0}
th,td{padding:.25rem .7rem;border-bottom:1px solid #8883;text-align:left}td.n{text-align:right}
figure{margin:1rem 0}figcaption,.sub{opacity:.75;font-size:.9rem}svg{max-width:100%;height:auto}
blockquote{border-left:4px solid #0072b2;margin:.5rem 0;padding:.2rem 1rem;white-space:pre-wrap}
pre{overflow-x:auto;font-size:.8rem;line-height:1.3}.maps{display:flex;flex-wrap:wrap;gap:1rem}.maps svg{max-width:28rem}
</style>
)";

}  // namespace

Chart speed_chart(const OrderedJson& ops) {
  std::map<std::string, Series> lines;
  for (const OrderedJson& row : ops) {
    if (!is_chosen(row)) continue;
    Series& line = lines[problem_name(row)];
    line.name = problem_name(row);
    line.points.push_back(
        {100 * number(row, "sparsity"), number(row, "speedup_vs_best_dense"), ""});
  }
  Chart chart{.title = "Speed of the chosen kernel over the best dense one",
              .x_label = "zeros, %",
              .y_label = "times faster"};
  for (auto& [name, line] : lines) {
    std::sort(line.points.begin(), line.points.end(),
              [](const Point& a, const Point& b) { return a.x < b.x; });
    chart.series.push_back(line);
  }
  return chart;
}

Chart roofline_chart(const OrderedJson& ops, const MachineCeilings& ceilings) {
  Series measured{"measured", {}, false, true};
  for (const OrderedJson& row : ops) {
    if (is_chosen(row))
      measured.points.push_back(
          {number(row, "bytes") / 1e6, number(row, "median_us"), word(row, "format")});
  }
  Chart chart{.title = "Roofline: time against bytes read",
              .x_label = "MB read",
              .y_label = "microseconds",
              .log_x = true,
              .log_y = true,
              .series = {measured}};
  if (ceilings.dram_gb_per_s <= 0 || measured.points.empty()) return chart;
  const auto [least, most] =
      std::minmax_element(measured.points.begin(), measured.points.end(),
                          [](const Point& a, const Point& b) { return a.x < b.x; });
  Series roof{fmt::format("memory at {:.1f} GB/s", ceilings.dram_gb_per_s), {}, true, false, true};
  for (double megabytes : {least->x, most->x})
    roof.points.push_back({megabytes, megabytes * 1e3 / ceilings.dram_gb_per_s, ""});
  chart.series.push_back(roof);
  return chart;
}

Chart calibration_chart(const BlockCalibration& calibration, DType dtype) {
  Chart chart{.title = fmt::format("Blocks of {} weights on either kind of unit", to_string(dtype)),
              .x_label = "nonzeros, %",
              .y_label = "ns for 1024 positions",
              .log_x = true,
              .log_y = true};
  double least = 0.005;  // Densities that are drawn.
  double most = 0.5;
  for (const BlockTiming& t : calibration.timings) {
    least = std::min(least, t.density);
    most = std::max(most, t.density);
  }
  for (const BlockCurve& c : calibration.curves) {
    if (c.dtype != dtype) continue;
    Series dense{fmt::format("N={} whole", c.n), {}, true, false, true};
    Series sparse{fmt::format("N={} by nonzeros", c.n), {}, true, false};
    for (double density = least; density <= most; density *= 1.25) {
      dense.points.push_back({100 * density, c.dense_side(density), ""});
      sparse.points.push_back({100 * density, c.sparse_side(density), ""});
    }
    Series measured{fmt::format("N={} measured", c.n), {}, false, true};
    for (const BlockTiming& t : calibration.timings) {
      if (t.dtype != dtype || t.n != c.n) continue;
      measured.points.push_back({100 * t.density, t.dense_ns, ""});
      measured.points.push_back({100 * t.density, t.sparse_ns, ""});
    }
    chart.series.push_back(std::move(dense));
    chart.series.push_back(std::move(sparse));
    chart.series.push_back(std::move(measured));
  }
  return chart;
}

Chart quality_chart(const std::vector<ModelFacts>& models) {
  Chart chart{.title = "Quality against size",
              .x_label = "weights in memory, MiB",
              .y_label = "perplexity (lower is better)"};
  for (const ModelFacts& m : models)
    chart.series.push_back({"", {{m.weight_bytes / (1 << 20), m.perplexity.ppl, m.name}}, false});
  return chart;
}

TextTable models_table(const ReportFacts& facts) {
  TextTable table{{"model", "parameters", "zeros, head included", "on disk", "in memory",
                   "of the first", "perplexity", "tokens/s"},
                  {}};
  for (const ModelFacts& m : facts.models) {
    table.rows.push_back(
        {m.name, human_count(m.parameters), percent(1 - m.density), human_bytes(m.file_bytes),
         human_bytes(m.weight_bytes),
         fmt::format("{:.2f}", m.weight_bytes / facts.models.front().weight_bytes),
         facts.text_name.empty() ? "-" : fmt::format("{:.2f}", m.perplexity.ppl),
         facts.prompt.empty() ? "-" : fmt::format("{:.0f}", m.generation.tokens_per_s)});
  }
  return table;
}

TextTable chosen_table(const OrderedJson& ops) {
  TextTable table{{"layer", "zeros", "kernel chosen", "time", "over the best dense"}, {}};
  for (const OrderedJson& row : ops) {
    if (!is_chosen(row)) continue;
    table.rows.push_back({problem_name(row), percent(number(row, "sparsity"), 0),
                          word(row, "method"), human_time_us(number(row, "median_us")),
                          fmt::format("{:.2f}x", number(row, "speedup_vs_best_dense"))});
  }
  return table;
}

TextTable bench_table(const OrderedJson& bench) {
  TextTable table{{"test", "weights", "dense weights", "tokens/s"}, {}};
  for (const OrderedJson& row : bench) {
    table.rows.push_back(
        {test_name(row), human_bytes(number(row, "model_size")),
         human_bytes(number(row, "dense_size")),
         fmt::format("{:.2f} ± {:.2f}", number(row, "avg_ts"), number(row, "stddev_ts"))});
  }
  return table;
}

std::string report_page(const ReportFacts& facts) {
  std::array<char, 32> date{};
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::strftime(date.data(), date.size(), "%Y-%m-%d", &utc);
  std::string page =
      "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\">\n<title>Rarefy report</title>\n";
  page += kStyle;
  page += fmt::format(
      "<h1>Rarefy report</h1>\n<p class=\"sub\">{}, {} threads, {} kernels, {:.1f} GB/s from "
      "memory. Rarefy {} ({}), {}.</p>\n",
      escaped(cpu_info().brand), default_pool().size(), to_string(active_isa()),
      facts.ceilings.dram_gb_per_s, RAREFY_VERSION, commit(), date.data());
  page += models_section(facts) + text_section(facts) + ops_section(facts) +
          bench_section(facts.bench) + calibration_section(facts.calibration) +
          calibration_section(facts.device_calibration);
  page += plan_section(facts.models.back()) + maps_section(facts.models.back(), facts.maps);
  return page + "</html>\n";
}

}  // namespace rarefy::cli
