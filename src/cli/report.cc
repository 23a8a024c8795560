// rarefy report: one HTML page that shows what thinning won and what it cost. No scripts; the
// pictures are inline SVG.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <map>

#include "base/check.h"
#include "base/files.h"
#include "cli/charts.h"
#include "cli/plan_view.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/version.h"
#include "rarefy/checkpoint.h"
#include "rarefy/cpu.h"
#include "rarefy/generate.h"
#include "rarefy/threads.h"

namespace rarefy::cli {
namespace {

struct Flags {
  std::vector<std::string> models, ops, bench;
  std::string out = "report.html", file, prompt;
  std::int64_t context = 0, windows = 0, tokens = 48;
  int maps = 8;
};

/// What the page says of one model.
struct ModelFacts {
  std::string name, directory;
  double parameters = 0, file_bytes = 0, weight_bytes = 0, dense_bytes = 0, density = 1;
  Perplexity perplexity;
  Generation generation;
  std::string plans;                   ///< As a preformatted table.
  std::map<std::string, int> formats;  ///< Weights a format.
};

std::string section(const std::string& title, const std::string& body) {
  return "<section>\n<h2>" + escaped(title) + "</h2>\n" + body + "</section>\n";
}

std::string figure(const std::string& svg, const std::string& caption) {
  return "<figure>" + svg + "<figcaption>" + escaped(caption) + "</figcaption></figure>\n";
}

std::string html_table(const std::vector<std::string>& header,
                       const std::vector<std::vector<std::string>>& rows) {
  std::string out = "<table><tr>";
  for (const std::string& cell : header) out += "<th>" + escaped(cell) + "</th>";
  out += "</tr>\n";
  for (const auto& row : rows) {
    out += "<tr>";
    for (const std::string& cell : row) out += "<td>" + escaped(cell) + "</td>";
    out += "</tr>\n";
  }
  return out + "</table>\n";
}

ModelFacts facts_of(const std::string& directory, const Flags& flags, const Session& session) {
  ModelFacts facts;
  facts.directory = directory;
  facts.name = std::filesystem::path(directory).lexically_normal().filename().string();
  if (facts.name.empty())
    facts.name = std::filesystem::path(directory).parent_path().filename().string();
  const auto checkpoint = Checkpoint::open(directory);
  for (const CheckpointTensor& tensor : checkpoint->tensors())
    facts.file_bytes += static_cast<double>(tensor.bytes);

  Planner planner = session.make_planner();
  LoadOptions load;
  load.progress = &session.progress();
  const auto model = Model::load(directory, planner, load);
  facts.parameters = static_cast<double>(model->config().parameters());
  facts.weight_bytes = static_cast<double>(model->weight_bytes());
  facts.dense_bytes = static_cast<double>(model->dense_weight_bytes());
  double nnz = 0;
  double elements = 0;
  for (const ModelWeight& weight : model->weights()) {
    const Matrix& m = weight.linear->matrix();
    nnz += static_cast<double>(m.nnz());
    elements += static_cast<double>(m.rows()) * static_cast<double>(m.cols());
    ++facts.formats[weight.linear->plan().format.name()];
  }
  facts.density = elements > 0 ? nnz / elements : 1;
  facts.plans = plans_as_table(*model);
  const auto tokenizer = Tokenizer::load(directory);
  if (!flags.file.empty()) {
    const std::int64_t context = flags.context > 0
                                     ? flags.context
                                     : std::min<std::int64_t>(model->config().max_positions, 2048);
    facts.perplexity = perplexity(*model, *tokenizer, read_text(flags.file), context, flags.windows,
                                  session.progress());
  }
  if (!flags.prompt.empty()) {
    GenerateOptions options;
    options.max_tokens = flags.tokens;
    facts.generation = generate(*model, tokenizer, flags.prompt, options);
  }
  return facts;
}

std::string models_section(const std::vector<ModelFacts>& models, const Flags& flags) {
  std::vector<std::vector<std::string>> rows;
  Chart chart{.title = "Quality against size",
              .x_label = "weights in memory, MiB",
              .y_label = "perplexity (lower is better)"};
  for (const ModelFacts& m : models) {
    rows.push_back({m.name, human_count(m.parameters), percent(1 - m.density),
                    human_bytes(m.file_bytes), human_bytes(m.weight_bytes),
                    fmt::format("{:.2f}", m.weight_bytes / models.front().weight_bytes),
                    flags.file.empty() ? "-" : fmt::format("{:.2f}", m.perplexity.ppl),
                    flags.prompt.empty() ? "-" : fmt::format("{:.0f}", m.generation.tokens_per_s)});
    chart.series.push_back({"", {{m.weight_bytes / (1 << 20), m.perplexity.ppl, m.name}}, false});
  }
  std::string body = html_table({"model", "parameters", "zeros in its matrices", "on disk",
                                 "in memory", "of the first", "perplexity", "tokens/s"},
                                rows);
  if (!flags.file.empty()) {
    body +=
        figure(chart_svg(chart),
               fmt::format("Perplexity on {} with {} windows of {} tokens.",
                           std::filesystem::path(flags.file).filename().string(),
                           models.front().perplexity.windows, models.front().perplexity.context));
  }
  return section("Models", body);
}

std::string text_section(const std::vector<ModelFacts>& models, const Flags& flags) {
  if (flags.prompt.empty()) return "";
  std::string body;
  for (const ModelFacts& m : models) {
    body += fmt::format("<h3>{}</h3><blockquote><b>{}</b>{}</blockquote>\n", escaped(m.name),
                        escaped(flags.prompt), escaped(m.generation.text));
  }
  return section("What they write (greedy)", body);
}

std::string plan_section(const ModelFacts& model) {
  std::vector<Bar> bars;
  for (const auto& [format, count] : model.formats)
    bars.push_back({format, static_cast<double>(count), std::to_string(count) + " weights",
                    format != "dense"});
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

double number(const OrderedJson& row, const char* key) {
  return row.contains(key) && row[key].is_number() ? row[key].get<double>() : 0.0;
}

std::string word(const OrderedJson& row, const char* key) {
  return row.contains(key) && row[key].is_string() ? row[key].get<std::string>() : "";
}

OrderedJson rows_of(const std::vector<std::string>& files) {
  OrderedJson rows = OrderedJson::array();
  for (const std::string& file : files) {
    require_path(file, "--ops/--bench");
    const OrderedJson document = OrderedJson::parse(read_text(file), nullptr, false);
    if (!document.is_array())
      fail(ErrorKind::kCorrupt, "{}: expected a JSON array of rows, as `bench --json` prints it",
           file);
    for (const OrderedJson& row : document) rows.push_back(row);
  }
  return rows;
}

/// Speed-up of the chosen kernel over the best dense one, against sparsity, a line for each shape
/// and N.
std::string ops_section(const OrderedJson& rows, const MachineCeilings& ceilings) {
  if (rows.empty()) return "";
  std::map<std::string, Series> lines;
  Series points{"measured", {}, false, true};
  double least = 1e30;
  double most = 0;
  std::vector<std::vector<std::string>> table;
  for (const OrderedJson& row : rows) {
    const std::string shape =
        fmt::format("{}, N={:.0f}, {}", word(row, "shape"), number(row, "n"), word(row, "dtype"));
    const bool chosen =
        row.contains("chosen") && row["chosen"].is_boolean() && row["chosen"].get<bool>();
    table.push_back(
        {shape, percent(number(row, "sparsity"), 0), word(row, "method"), word(row, "format"),
         human_time_us(number(row, "median_us")), fmt::format("{:.1f}", number(row, "gb_per_s")),
         fmt::format("{:.2f}", number(row, "speedup_vs_best_dense")), chosen ? "chosen" : ""});
    if (!chosen) continue;
    Series& line = lines[shape];
    line.name = shape;
    line.points.push_back(
        {100 * number(row, "sparsity"), number(row, "speedup_vs_best_dense"), ""});
    const double megabytes = number(row, "bytes") / 1e6;
    points.points.push_back({megabytes, number(row, "median_us"), word(row, "format")});
    least = std::min(least, megabytes);
    most = std::max(most, megabytes);
  }
  Chart speed{.title = "Speed of the chosen kernel over the best dense one",
              .x_label = "zeros, %",
              .y_label = "times faster"};
  for (auto& [shape, line] : lines) {
    std::sort(line.points.begin(), line.points.end(),
              [](const Point& a, const Point& b) { return a.x < b.x; });
    speed.series.push_back(line);
  }
  std::string body =
      figure(chart_svg(speed),
             "Both timed in the same run, weights streamed from memory; above 1 is a gain.");
  if (ceilings.dram_gb_per_s > 0 && least < most) {
    Series roof{
        fmt::format("memory at {:.1f} GB/s", ceilings.dram_gb_per_s), {}, true, false, true};
    for (double megabytes : {least, most})
      roof.points.push_back({megabytes, megabytes * 1e3 / ceilings.dram_gb_per_s, ""});
    body += figure(
        chart_svg({.title = "Roofline: time against bytes read",
                   .x_label = "MB read",
                   .y_label = "microseconds",
                   .log_x = true,
                   .log_y = true,
                   .series = {points, roof}}),
        "No kernel can lie below the dashed line; the distance to it is what decoding costs.");
  }
  body += "<details><summary>every method</summary>" +
          html_table({"problem", "zeros", "method", "format", "median", "GB/s", "× best dense", ""},
                     table) +
          "</details>\n";
  return section("Operators on real layer shapes", body);
}

std::string bench_section(const OrderedJson& rows) {
  if (rows.empty()) return "";
  std::vector<Bar> bars;
  std::vector<std::vector<std::string>> table;
  for (const OrderedJson& row : rows) {
    const bool prompt = number(row, "n_prompt") > 0;
    const std::string name =
        std::filesystem::path(word(row, "model_filename")).filename().string() + " " +
        (prompt ? fmt::format("pp{:.0f}", number(row, "n_prompt"))
                : fmt::format("tg{:.0f}", number(row, "n_gen")));
    table.push_back(
        {name, human_bytes(number(row, "model_size")), human_bytes(number(row, "dense_size")),
         fmt::format("{:.2f} ± {:.2f}", number(row, "avg_ts"), number(row, "stddev_ts"))});
    if (!prompt)
      bars.push_back({name, number(row, "avg_ts"),
                      fmt::format("{:.2f} tokens/s", number(row, "avg_ts")),
                      number(row, "model_size") < 0.95 * number(row, "dense_size")});
  }
  return section("Whole models",
                 figure(bars_svg("Tokens a second", bars), "Generation, one token at a time.") +
                     html_table({"test", "weights", "dense weights", "tokens/s"}, table));
}

constexpr const char* kStyle = R"(<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{margin-top:2.5rem;border-bottom:1px solid #8884;padding-bottom:.2rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:1rem 0}
th,td{padding:.25rem .7rem;border-bottom:1px solid #8883;text-align:left}td:nth-child(n+3){text-align:right}
figure{margin:1rem 0}figcaption,.sub{opacity:.75;font-size:.9rem}svg{max-width:100%;height:auto}
blockquote{border-left:4px solid #0072b2;margin:.5rem 0;padding:.2rem 1rem;white-space:pre-wrap}
pre{overflow-x:auto;font-size:.8rem;line-height:1.3}.maps{display:flex;flex-wrap:wrap;gap:1rem}.maps svg{max-width:28rem}
</style>
)";

void run(const Flags& flags, const Session& session) {
  for (const std::string& model : flags.models) require_path(model, "-m");
  if (!flags.file.empty()) require_path(flags.file, "-f");
  const OrderedJson ops = rows_of(flags.ops);
  const OrderedJson bench = rows_of(flags.bench);
  std::vector<ModelFacts> models;
  for (const std::string& model : flags.models) models.push_back(facts_of(model, flags, session));
  Planner planner = session.make_planner();
  const MachineCeilings& ceilings = planner.ceilings();

  char date[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
  std::string page =
      "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\">\n<title>Rarefy report</title>\n";
  page += kStyle;
  page += fmt::format(
      "<h1>Rarefy report</h1>\n<p class=\"sub\">{}, {} threads, {} kernels, {:.1f} GB/s from "
      "memory. Rarefy {} ({}), {}.</p>\n",
      escaped(cpu_info().brand), default_pool().size(), to_string(active_isa()),
      ceilings.dram_gb_per_s, RAREFY_VERSION, commit(), date);
  page += models_section(models, flags) + text_section(models, flags) + ops_section(ops, ceilings) +
          bench_section(bench);
  page += plan_section(models.back()) + maps_section(models.back(), flags.maps);
  page += "</html>\n";
  AtomicFile file(flags.out);
  file.write(page);
  file.commit();
  if (session.json) return print_json({{"out", flags.out}});
  std::printf("%s\n", flags.out.c_str());
}

}  // namespace

void add_report(CLI::App& app, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand(
      "report", "Compare models on one HTML page: size, quality, speed, plans, density maps");
  verb->fallthrough();
  verb->add_option("-m,--model", flags->models,
                   "Model folders, the dense one first; the last one's plans and maps are drawn")
      ->required()
      ->type_name("DIR");
  verb->add_option("-o,--out", flags->out, "The page")->capture_default_str()->type_name("FILE");
  verb->add_option("-f,--file", flags->file, "Text to measure perplexity on")->type_name("FILE");
  verb->add_option("-c,--context", flags->context, "Tokens a window")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N");
  verb->add_option("--windows", flags->windows, "At most this many windows (0: all)")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N");
  verb->add_option("-p,--prompt", flags->prompt, "Let every model go on from this text")
      ->type_name("TEXT");
  verb->add_option("-n,--tokens", flags->tokens, "Tokens of that text")
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("--ops", flags->ops, "Rows of `rarefy bench ops --json`")->type_name("FILE");
  verb->add_option("--bench", flags->bench, "Rows of `rarefy bench --json`")->type_name("FILE");
  verb->add_option("--maps", flags->maps, "Density maps to draw")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str()
      ->type_name("N");
  verb->footer(
      "Example:\n  rarefy report -m my-model -m my-model-thin -f wiki.test.raw -p 'The sea' -o "
      "report.html");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
