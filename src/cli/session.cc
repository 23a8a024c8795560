#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <set>
#include <string>

#include "base/check.h"
#include "cli/numbers.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "rarefy/cpu.h"
#include "rarefy/threads.h"

namespace rarefy::cli {

void Session::apply() const {
  if (threads != 0) set_default_threads(threads);
  if (!isa.empty()) {
    const std::optional<Isa> level = parse_isa(isa);
    require(level.has_value(), "--isa: expected portable, avx2, avx512 or amx, got '{}'", isa);
    force_isa(level);
  }
  require(device == "auto" || device == "cpu" || device == "cuda",
          "--device: expected auto, cpu or cuda, got '{}'", device);
  if (device != "cuda") return;
  if (const Support support = cuda_support(); !support)
    fail(ErrorKind::kUnsupported, "--device cuda: {}; `rarefy doctor` says where it was looked for",
         support.reason);
}

Planner Session::make_planner(bool freeze) const {
  Planner::Options options;
  options.cache_dir = cache_dir;
  options.freeze = freeze;
  return Planner(options);
}

namespace {

/// Why memory that was given for second forms of weights is not used; empty where it is.
std::string no_second_form(const LoadOptions& options, const Model& model) {
  if (!options.weight_memory) return "";
  if (model.gpu().empty()) return "the model runs on the CPU";
  const bool dense_fits = *options.weight_memory > 1;
  const bool some = std::ranges::any_of(
      model.device_weights(), [](const DeviceWeight& weight) { return weight.many_from > 0; });
  return dense_fits && !some ? "no second form is faster, or there is no room for them" : "";
}

/// A line on stderr; `bench` loads a model for each of its tests, and says everything once.
void say_once(const std::string& line) {
  static std::set<std::string> said;
  if (!said.insert(line).second) return;
  terminal_progress().clear();
  std::fprintf(stderr, "rarefy: %s\n", line.c_str());
}

/// A budget that cannot hold the model is an argument that cannot work, not a machine too small.
/// Neither is a GPU that was asked for. A GPU that is there and not used is worth a line.
template <class Load>
std::unique_ptr<Model> load_or_explain(const LoadOptions& options, const Load& load) {
  try {
    std::unique_ptr<Model> model = load();
    if (const std::string note = model->gpu_note(); !note.empty())
      say_once("running on the CPU: " + note);
    if (const std::string why = no_second_form(options, *model); !why.empty())
      say_once("--weight-memory has no effect: " + why);
    return model;
  } catch (const Error& e) {
    constexpr std::size_t kNoBudget = std::numeric_limits<std::size_t>::max();
    if (e.kind() != ErrorKind::kOutOfMemory) throw;
    if (options.memory_budget == kNoBudget) {
      if (options.device == Device::kCuda)
        fail(ErrorKind::kUnsupported, "--device cuda: {}", e.what());
      throw;
    }
    fail(ErrorKind::kInvalidArgument, "--memory: {}", e.what());
  }
}

}  // namespace

std::unique_ptr<Model> Session::load_model(const std::string& directory,
                                           const LoadOptions& options) const {
  Planner planner = make_planner();
  return load_or_explain(options, [&] { return Model::load(directory, planner, options); });
}

std::unique_ptr<Model> Session::load_model(const ModelConfig& config,
                                           std::shared_ptr<const Checkpoint> checkpoint,
                                           const LoadOptions& options) const {
  Planner planner = make_planner();
  return load_or_explain(
      options, [&] { return Model::load(config, std::move(checkpoint), planner, options); });
}

Progress& Session::progress() const {
  if (quiet || !stderr_is_terminal()) return no_progress();
  return terminal_progress();
}

void ModelFlags::add_to(CLI::App& app) {
  app.add_option("-m,--model", directory,
                 "Model folder: config.json, tokenizer.json, *.safetensors")
      ->required()
      ->type_name("DIR");
  app.add_option("--format", formats,
                 "Only these weight formats: dense, bitmap, csr16, delta8, sell8, bsr16x32, … "
                 "(dense is always tried)")
      ->delimiter(',')
      ->type_name("NAME,…");
  app.add_option("--kernel", kernels,
                 "Only these kernels, by name, such as dense.onednn; to compare")
      ->delimiter(',')
      ->type_name("NAME,…");
  app.add_option("--activations", activations,
                 "exact: f32; bf16 or (GPU) f16: round them; auto: exact on the CPU, the "
                 "checkpoint's on a GPU")
      ->check(CLI::IsMember({"auto", "exact", "bf16", "f16"}))
      ->capture_default_str();
  app.add_option("--plan-for", plan_for,
                 "Tokens at once that plans are made for; the first counts most (generation is 1)")
      ->delimiter(',')
      ->check(whole(1))
      ->type_name("N,…");
  app.add_option("--memory", memory, "Budget for all packed weights, such as 4GiB")
      ->type_name("SIZE");
  app.add_option("--weight-memory", weight_memory,
                 "On a GPU: memory that a packed weight and a second form for prompts may take, as "
                 "a share of the dense weight's (default: 0.75); where it is enough, such as 1.6, "
                 "the second form is dense")
      ->check(number(0, 2))
      ->type_name("SHARE");
  app.add_flag("--no-measure", no_measure, "Take cached plans or the estimate; measure nothing");
}

namespace {

/// `auto` stays on the CPU where formats or kernels of the CPU are asked for.
Device wanted_device(const std::string& name, const ModelFlags& flags) {
  const bool cpu_kernels = !flags.kernels.empty();
  const bool cpu_formats =
      !flags.formats.empty() && flags.formats != std::vector<std::string>{"dense"};
  if (name == "cpu") return Device::kCpu;
  if (name == "auto") return cpu_kernels || cpu_formats ? Device::kCpu : Device::kAuto;
  require(!cpu_kernels && !cpu_formats,
          "--device cuda: expected no --kernel, and no --format but dense: they name what runs on "
          "the CPU");
  return Device::kCuda;
}

}  // namespace

Device ModelFlags::device(const Session& session) const {
  const Device wanted = wanted_device(session.device, *this);
  require(!weight_memory || wanted != Device::kCpu,
          "--weight-memory: expected a model on a GPU, got one on the CPU, where weights have one "
          "form");
  return wanted;
}

LoadOptions ModelFlags::load_options(const Session& session, bool from_folder) const {
  if (from_folder) require_model_folder(directory, "-m");
  LoadOptions options;
  for (const std::string& name : formats) {
    const std::optional<FormatSpec> spec = FormatSpec::parse(name);
    require(spec.has_value(),
            "--format: expected a format such as bitmap, csr16, sell8, 2:4 or bsr16x32, got '{}'",
            name);
    options.formats.push_back(*spec);
  }
  for (const std::string& name : kernels) {
    require(find_spmm_kernel(name) != nullptr,
            "--kernel: expected the name of a kernel (rarefy explain lists them), got '{}'", name);
  }
  options.kernels = kernels;
  if (activations == "bf16") options.precision = Precision::kBf16;
  if (activations != "auto")
    options.device_dtype = activations == "exact" ? DType::kF32 : *parse_dtype(activations);
  options.device = device(session);
  options.weight_memory = weight_memory;
  if (!memory.empty()) options.memory_budget = parse_bytes(memory, "--memory");
  if (!plan_for.empty()) options.workloads = workloads_for(plan_for);
  options.measure = !no_measure;
  options.progress = &session.progress();
  return options;
}

std::vector<Workload> workloads_for(const std::vector<std::int64_t>& tokens) {
  std::vector<Workload> workloads;
  workloads.reserve(tokens.size());
  for (std::int64_t n : tokens) workloads.push_back({n, workloads.empty() ? 1.0 : 0.05});
  return workloads;
}

void require_path(const std::string& path, const char* flag) {
  if (!std::filesystem::exists(path))
    fail(ErrorKind::kIo, "{}: {}: no such file or folder", flag, path);
}

void require_model_folder(const std::string& path, const char* flag) {
  require_path(path, flag);
  if (!std::filesystem::is_directory(path)) {
    fail(ErrorKind::kIo,
         "{}: {}: expected a model folder (config.json, tokenizer.json, *.safetensors), found a "
         "file",
         flag, path);
  }
}

std::size_t parse_bytes(const std::string& text, const char* flag) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string unit;
  for (; *end != '\0'; ++end) {
    if (*end != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*end)));
  }
  constexpr std::pair<const char*, int> kUnits[] = {
      {"", 0},     {"b", 0},  {"k", 10},  {"kb", 10},  {"kib", 10}, {"m", 20},  {"mb", 20},
      {"mib", 20}, {"g", 30}, {"gb", 30}, {"gib", 30}, {"t", 40},   {"tib", 40}};
  for (const auto& [name, shift] : kUnits) {
    if (unit == name && number > 0 && number < 1e15)
      return static_cast<std::size_t>(number * static_cast<double>(std::size_t{1} << shift));
  }
  fail(ErrorKind::kInvalidArgument, "{}: expected a size such as 4GiB or 512M, got '{}'", flag,
       text);
}

void print_json(const OrderedJson& document) {
  const std::string text = document.dump(2, ' ', false, OrderedJson::error_handler_t::replace);
  std::printf("%s\n", text.c_str());
}

void print_csv(const OrderedJson& rows) {
  if (rows.empty()) return;
  std::vector<std::string> header;
  for (const auto& [key, value] : rows[0].items()) {
    if (!value.is_array()) header.push_back(key);
  }
  Table table(header);
  for (const OrderedJson& row : rows) {
    std::vector<std::string> cells;
    cells.reserve(header.size());
    for (const std::string& key : header)
      cells.push_back(row[key].is_string() ? row[key].get<std::string>() : row[key].dump());
    table.add(cells);
  }
  std::fputs(table.csv().c_str(), stdout);
}

}  // namespace rarefy::cli
