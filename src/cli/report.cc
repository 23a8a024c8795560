// rarefy report: one HTML page that shows what thinning won and what it cost.
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>

#include "base/check.h"
#include "base/files.h"
#include "cli/numbers.h"
#include "cli/plan_view.h"
#include "cli/report_page.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "ops/spmm/calibrate_device.h"
#include "rarefy/checkpoint.h"

namespace rarefy::cli {
namespace {

struct Flags {
  std::vector<std::string> models, ops, bench;
  std::string out = "report.html", charts, file, prompt;
  std::int64_t context = 0, windows = 0, tokens = 48;
  int maps = 8;
};

void write_file(const std::filesystem::path& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
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

  LoadOptions load;
  load.progress = &session.progress();
  const auto model = session.load_model(directory, load);
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

/// Rows that `command` printed as JSON; each has `key`, which tells them from other rows.
OrderedJson rows_of(const std::vector<std::string>& files, const char* flag, const char* command,
                    const char* key) {
  OrderedJson rows = OrderedJson::array();
  for (const std::string& file : files) {
    require_path(file, flag);
    const OrderedJson document = OrderedJson::parse(read_text(file), nullptr, false);
    bool fits = document.is_array();
    for (std::size_t i = 0; fits && i < document.size(); ++i) fits = document[i].contains(key);
    if (!fits) {
      fail(ErrorKind::kCorrupt,
           "{}: {}: expected a JSON array of rows with '{}', as `{}` prints it", flag, file, key,
           command);
    }
    for (const OrderedJson& row : document) rows.push_back(row);
  }
  return rows;
}

/// The page comes last, after minutes of measuring: what would keep it from being written is found
/// first.
void require_writable(const std::string& path) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::absolute(path).parent_path();
  require(fs::is_directory(folder), "-o: {}: expected a folder {}, found none", path,
          folder.string());
  require(access(folder.c_str(), W_OK) == 0,
          "-o: {}: expected a folder that can be written, got {}", path, folder.string());
  require(!fs::is_directory(path), "-o: {}: expected the name of a file, got a folder", path);
}

/// A chart that stands alone has no page behind it that would choose its colours.
std::string standalone(const Chart& chart) {
  std::string svg = chart_svg(chart);
  // A rectangle: not every viewer paints the background of a style.
  svg.insert(svg.find('>') + 1, "\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>");
  return svg.insert(std::string_view("<svg").size(), " color=\"#111\"");
}

/// The charts as files of their own, for documents.
void write_charts(const std::filesystem::path& folder, const ReportFacts& facts) {
  if (!facts.text_name.empty())
    write_file(folder / "quality.svg", standalone(quality_chart(facts.models)));
  const auto write_calibration = [&](const std::optional<BlockCalibration>& of, const char* name) {
    if (of) write_file(folder / name, standalone(calibration_chart(*of, DType::kBF16)));
  };
  write_calibration(facts.calibration, "calibration.svg");
  write_calibration(facts.device_calibration, "calibration-cuda.svg");
  if (facts.ops.empty()) return;
  write_file(folder / "speed.svg", standalone(speed_chart(facts.ops)));
  write_file(folder / "roofline.svg", standalone(roofline_chart(facts.ops, facts.ceilings)));
}

void run(const Flags& flags, const Session& session) {
  if (session.device == "cuda")
    fail(
        ErrorKind::kUnsupported,
        "--device: report loads models on the CPU: expected auto or cpu, got cuda; rows that a GPU "
        "measured come in with --ops and --bench");
  for (const std::string& model : flags.models) require_model_folder(model, "-m");
  if (!flags.file.empty()) require_path(flags.file, "-f");
  require_writable(flags.out);
  if (!flags.charts.empty()) std::filesystem::create_directories(flags.charts);
  ReportFacts facts;
  facts.ops = rows_of(flags.ops, "--ops", "rarefy bench ops --json", "median_us");
  facts.bench = rows_of(flags.bench, "--bench", "rarefy bench --json", "n_gen");
  facts.text_name = std::filesystem::path(flags.file).filename().string();
  facts.prompt = flags.prompt;
  facts.maps = flags.maps;
  for (const std::string& model : flags.models)
    facts.models.push_back(facts_of(model, flags, session));
  Planner planner = session.make_planner();
  facts.ceilings = planner.ceilings();
  facts.calibration = planner.calibration();
  if (cuda_support()) facts.device_calibration = device_calibration();
  write_file(flags.out, report_page(facts));
  if (!flags.charts.empty()) write_charts(flags.charts, facts);
  if (session.json) return print_json({{"out", flags.out}});
  std::array parts{models_table(facts), chosen_table(facts.ops), bench_table(facts.bench)};
  for (TextTable& part : parts) {
    if (part.rows.empty()) continue;
    Table table(std::move(part.header));
    for (std::vector<std::string>& row : part.rows) table.add(std::move(row));
    std::printf("%s\n", table.text().c_str());
  }
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
  verb->add_option("--charts", flags->charts, "Also write the charts as SVG files into this folder")
      ->type_name("DIR");
  verb->add_option("-f,--file", flags->file, "Text to measure perplexity on")->type_name("FILE");
  verb->add_option("-c,--context", flags->context,
                   "Tokens a window (default: the model's context, at most 2048)")
      ->check(whole(0))
      ->type_name("N");
  verb->add_option("--windows", flags->windows, "At most this many windows (0: all)")
      ->check(whole(0))
      ->type_name("N");
  verb->add_option("-p,--prompt", flags->prompt, "Let every model go on from this text")
      ->type_name("TEXT");
  verb->add_option("-n,--tokens", flags->tokens, "Tokens of that text")
      ->check(whole(1))
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("--ops", flags->ops, "Rows of `rarefy bench ops --json`")->type_name("FILE");
  verb->add_option("--bench", flags->bench, "Rows of `rarefy bench --json`")->type_name("FILE");
  verb->add_option("--maps", flags->maps, "Density maps to draw")
      ->check(whole(0, 1000))
      ->capture_default_str()
      ->type_name("N");
  verb->footer(
      "Example:\n  rarefy report -m my-model -m my-model-thin -f wiki.test.raw -p 'The sea' -o "
      "report.html");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
