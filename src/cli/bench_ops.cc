#include "cli/bench_ops.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <ctime>
#include <functional>

#include "base/check.h"
#include "cli/bench_ops_gpu.h"
#include "cli/bench_ops_rows.h"
#include "cli/bench_ops_run.h"
#include "cli/numbers.h"
#include "cli/terminal.h"
#include "cli/version.h"
#include "rarefy/model.h"
#include "rarefy/threads.h"

namespace rarefy::cli {
namespace {

struct Flags {
  std::vector<std::string> shapes{"4096x14336"};
  std::vector<std::int64_t> ns{1};
  std::vector<double> sparsities{0.7};
  std::vector<std::string> patterns{"uniform"};
  std::string dtype = "bf16", activations, precision, only, output, save;
  int repetitions = 15;
  double seconds = 20;
  std::int64_t rotate_mb = 1024;
  std::uint64_t seed = 1;
  bool all = false, save_given = false;
};

std::pair<std::int64_t, std::int64_t> parse_shape(const std::string& text) {
  std::int64_t m = 0;
  std::int64_t k = 0;
  const char* end = text.data() + text.size();
  const auto [cross, e1] = std::from_chars(text.data(), end, m);
  const bool crossed = e1 == std::errc{} && cross != end && *cross == 'x';
  const auto [stop, e2] = std::from_chars(crossed ? cross + 1 : end, end, k);
  require(crossed && e2 == std::errc{} && stop == end && m > 0 && k > 0,
          "--shape: expected MxK such as 4096x14336, got '{}'", text);
  return {m, k};
}

DType parse_compute_dtype(const std::string& name, const char* flag) {
  const std::optional<DType> dtype = parse_dtype(name);
  require(dtype.has_value() && is_compute_dtype(*dtype),
          "{}: expected bf16, fp16 or fp32, got '{}'", flag, name);
  return *dtype;
}

/// As the command line spells it.
std::string spelled(DType dtype) {
  return dtype == DType::kBF16 ? "bf16" : dtype == DType::kF16 ? "fp16" : "fp32";
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

bool is_file(const std::string& pattern) {
  return pattern.ends_with(".smtx") || pattern.ends_with(".mtx");
}

Table table_of(const bench::Result& result) {
  Table table({"method", "format", "median us", "min", "max", "MB", "GB/s", "vs dense", "roofline",
               "rel. error", ""});
  for (const bench::Row& row : result.rows) {
    table.add({row.method, row.format, fmt::format("{:.1f}", row.median_us),
               fmt::format("{:.1f}", row.min_us), fmt::format("{:.1f}", row.max_us),
               fmt::format("{:.2f}", static_cast<double>(row.bytes) / 1e6),
               fmt::format("{:.1f}", row.gb_per_s),
               fmt::format("{:.2f}x", row.speedup_vs_best_dense),
               row.roofline > 0 ? percent(row.roofline, 0) : "-",
               fmt::format("{:.1e}", row.max_rel_err), row.chosen ? "chosen" : ""});
  }
  return table;
}

/// Prints one problem as it finishes: people watch.
void print_problem(const bench::Result& result, const bench::Context& context, bool markdown) {
  const std::string heading =
      fmt::format("{} N={} {} {:.1f} % sparse ({}), {} activations, {}", context.shape, context.n,
                  context.dtype, 100 * context.sparsity, context.pattern, context.activations,
                  context.gpu.empty() ? fmt::format("{} threads", context.threads) : context.gpu);
  const Table table = table_of(result);
  std::printf(markdown ? "### %s\n\n%s\n" : "%s\n%s\n", heading.c_str(),
              (markdown ? table.markdown() : table.text()).c_str());
  for (const bench::Skipped& s : result.skipped)
    std::printf("%s without %s: %s\n", markdown ? "-" : " ", s.name.c_str(), s.reason.c_str());
  std::printf("\n");
  std::fflush(stdout);
}

/// A file brings its own shape and sparsity: it counts once, whatever lists were given.
struct Case {
  std::string pattern;
  std::int64_t m = 0, k = 0;
  double sparsity = 0;
};

std::vector<Case> cases_of(const Flags& flags) {
  std::vector<Case> cases;
  for (const std::string& pattern : flags.patterns) {
    if (is_file(pattern)) {
      cases.push_back({pattern});
      continue;
    }
    for (const std::string& shape : flags.shapes) {
      const auto [m, k] = parse_shape(shape);
      for (double sparsity : flags.sparsities) cases.push_back({pattern, m, k, sparsity});
    }
  }
  return cases;
}

/// Times one problem with the weight of a case, whatever the device.
using RunProblem = std::function<bench::Result(const bench::BenchWeight& weight, std::int64_t n)>;

RunProblem on_cpu(const Flags& flags, const Session& session, DType dtype, DType activations) {
  bench::RunOptions options;
  options.activations = activations;
  options.precision = flags.precision == "exact" ? Precision::kExact : Precision::kBf16;
  if (flags.precision.empty() && options.activations != DType::kBF16)
    options.precision = dtype == DType::kF32 ? Precision::kExact : Precision::kBf16;
  options.repetitions = flags.repetitions;
  options.seconds = flags.seconds;
  options.rotate = static_cast<std::size_t>(flags.rotate_mb) << 20;
  options.all_kernels = flags.all;
  options.only = flags.only;
  // It cannot be moved, which make_shared would do.
  const std::shared_ptr<Planner> planner(new Planner(session.make_planner()));
  return [=, &session](const bench::BenchWeight& weight, std::int64_t n) mutable {
    options.n = n;
    return bench::run_problem(weight, options, *planner, default_pool(), session.progress());
  };
}

RunProblem on_gpu(const Flags& flags, const Session& session, DType activations) {
  constexpr int kAll = 1 << 20;
  bench::GpuRunOptions options;
  options.activations = activations;
  options.seconds = flags.seconds;
  options.only = flags.only;
  if (flags.all) options.measure = kAll;
  auto stream = std::make_shared<cuda::Stream>();
  return [=, &session](const bench::BenchWeight& weight, std::int64_t n) mutable -> bench::Result {
    options.n = n;
    return bench::run_gpu_problem(weight, options, *stream, session.progress());
  };
}

void run(const Flags& flags, const Session& session) {
  const DType dtype = parse_compute_dtype(flags.dtype, "--dtype");
  const DType activations =
      flags.activations.empty() ? dtype : parse_compute_dtype(flags.activations, "--activations");
  const bool on_device = session.device == "cuda" || (session.device == "auto" && cuda_support());
  const std::string gpu = on_device ? cuda::Device::get().facts().name : "";
  const RunProblem run_problem = gpu.empty() ? on_cpu(flags, session, dtype, activations)
                                             : on_gpu(flags, session, activations);

  const bool json = session.json || flags.output == "json";
  const bool quiet_table = json || flags.output == "csv";
  OrderedJson rows = OrderedJson::array();
  for (const Case& c : cases_of(flags)) {
    const bench::BenchWeight weight = bench::make_weight({.m = c.m,
                                                          .k = c.k,
                                                          .sparsity = c.sparsity,
                                                          .dtype = dtype,
                                                          .pattern = c.pattern,
                                                          .seed = flags.seed});
    for (std::int64_t n : flags.ns) {
      const bench::Result result = run_problem(weight, n);
      // What was asked for names a synthetic problem; a file is named by what it holds.
      const bench::Context context{
          .shape = fmt::format("{}x{}", weight.m, weight.k),
          .n = n,
          .sparsity = is_file(c.pattern) ? weight.sparsity : c.sparsity,
          .dtype = spelled(dtype),
          .activations = spelled(activations),
          .pattern =
              is_file(c.pattern) ? std::filesystem::path(c.pattern).filename().string() : c.pattern,
          .threads = gpu.empty() ? default_pool().size() : 0,
          .gpu = gpu,
          .date = today(),
          .commit = commit()};
      for (const bench::Row& row : result.rows) rows.push_back(bench::row_to_json(row, context));
      if (!quiet_table)
        print_problem(result, context,
                      flags.output == "md" || (flags.output.empty() && !stdout_is_terminal()));
    }
  }
  if (flags.save_given) {
    const std::filesystem::path root = flags.save.empty() ? "bench/results" : flags.save;
    const std::string device = gpu.empty() ? bench::device_name() : bench::folder_name(gpu);
    bench::save_rows(root / device / "ops.csv", rows);
  }
  if (json) return print_json(rows);
  if (flags.output == "csv") print_csv(rows);
}

}  // namespace

void add_bench_ops(CLI::App& bench, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = bench.add_subcommand(
      "ops",
      "Time every kernel on one operator beside oneDNN, OpenBLAS and other rivals; with --device "
      "cuda beside cuBLAS, cuBLASLt and cuSPARSE");
  verb->fallthrough();
  const auto list = [](CLI::Option* option, const char* type) {
    option->delimiter(',')->capture_default_str()->type_name(type);
  };
  list(verb->add_option("--shape,--shapes", flags->shapes, "Rows and columns of the weight"),
       "MxK,…");
  list(verb->add_option("--n", flags->ns, "Columns of activations")->check(whole(1)), "N,…");
  list(verb->add_option("--sparsity", flags->sparsities, "Shares of zeros")->check(number(0, 1)),
       "S,…");
  list(verb->add_option("--pattern", flags->patterns,
                        "uniform, blockskew, blockempty, rowskew, blocks such as 16x32, 2:4, or a "
                        ".smtx/.mtx file"),
       "NAME,…");
  verb->add_option("--dtype", flags->dtype, "bf16, fp16 or fp32: of the weight")
      ->capture_default_str();
  verb->add_option("--activations", flags->activations,
                   "bf16, fp16 or fp32 (default: as the weight, as rivals take them)");
  verb->add_option("--precision", flags->precision,
                   "exact or bf16: whether fp32 activations may be rounded (default: bf16 for "
                   "16-bit weights)")
      ->check(CLI::IsMember({"exact", "bf16"}));
  verb->add_option("-r,--repetitions", flags->repetitions, "Rounds; every method runs once in each")
      ->check(whole(3, 10000))
      ->capture_default_str();
  verb->add_option("--seconds", flags->seconds, "No new round of a problem begins after this")
      ->check(number(0, 1e6))
      ->capture_default_str();
  verb->add_option("--rotate-mb", flags->rotate_mb,
                   "MB of weights read between two uses of the same copy; 0 keeps them in cache")
      ->check(whole(0, 1 << 20))
      ->capture_default_str();
  verb->add_option("--only", flags->only,
                   "Methods whose \"name format\" contains this, beside the dense ones; on a GPU "
                   "kernels whose name starts with this");
  verb->add_flag("--all", flags->all,
                 "Also kernels that a higher instruction set outdoes; on a GPU all, not only "
                 "the 24 best by estimate");
  verb->add_option("--seed", flags->seed, "Of the pattern and the values")
      ->check(whole(0))
      ->capture_default_str();
  verb->add_option("-o,--output", flags->output, "md, text, csv or json")
      ->check(CLI::IsMember({"md", "text", "csv", "json"}));
  verb->add_option("--save", flags->save,
                   "Merge the rows into DIR/<device>/ops.csv (default DIR: bench/results)")
      ->expected(0, 1)
      ->type_name("[DIR]");
  verb->footer(
      "Examples:\n  rarefy bench ops --shape 4096x14336 --n 1 --sparsity 0.5,0.7,0.9 --dtype bf16\n"
      "  rarefy bench ops --shape 4096x4096 --n 16,128 --pattern 16x32 --json\n"
      "  rarefy bench ops --pattern layer.smtx --dtype fp32 --n 128\n"
      "  rarefy bench ops --device cuda --shape 28672x8192 --n 1 --sparsity 0.99 --dtype fp16");
  verb->callback([flags, verb, &session] {
    flags->save_given = verb->get_option("--save")->count() > 0;
    run(*flags, session);
  });
}

}  // namespace rarefy::cli
