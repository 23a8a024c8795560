#include "cli/bench_ops.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <functional>
#include <limits>
#include <map>
#include <set>

#include "base/check.h"
#include "cli/bench_ops_cases.h"
#include "cli/bench_ops_gpu.h"
#include "cli/bench_ops_rows.h"
#include "cli/bench_ops_run.h"
#include "cli/bench_ops_table.h"
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
  std::string dtype = "bf16", activations, precision, layout = "tokens", only, output, save;
  int repetitions = 15;
  double seconds = 20, within = std::numeric_limits<double>::infinity();
  std::int64_t rotate_mb = 1024;
  std::uint64_t seed = 1;
  bool all = false, save_given = false, missing = false;
};

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

/// What holds for all problems of a run.
struct Asked {
  DType dtype, activations;
  std::string gpu;  ///< Empty: the CPU.
};

/// A weight that is made when it is needed: that takes a second.
class LazyWeight {
 public:
  explicit LazyWeight(bench::WeightSpec spec) : spec_(std::move(spec)) {}
  const bench::BenchWeight& get() {
    if (!weight_) weight_ = bench::make_weight(spec_);
    return *weight_;
  }

 private:
  bench::WeightSpec spec_;
  std::optional<bench::BenchWeight> weight_;
};

/// What was asked for names a synthetic problem; a file is named by what it holds.
bench::Context context_of(const bench::Case& c, LazyWeight& weight, const Flags& flags,
                          const Asked& asked) {
  bench::Context context{.dtype = spelled(asked.dtype),
                         .activations = spelled(asked.activations),
                         .layout = flags.layout,
                         .threads = asked.gpu.empty() ? default_pool().size() : 0,
                         .gpu = asked.gpu,
                         .date = today(),
                         .commit = commit()};
  if (c.is_file()) {
    context.shape = fmt::format("{}x{}", weight.get().m, weight.get().k);
    context.sparsity = weight.get().sparsity;
    context.pattern = std::filesystem::path(c.pattern).filename().string();
  } else {
    context.shape = fmt::format("{}x{}", c.m, c.k);
    context.sparsity = c.sparsity;
    context.pattern = c.pattern;
  }
  return context;
}

/// Times one problem with the weight of a case, whatever the device.
using RunProblem = std::function<bench::Result(const bench::BenchWeight& weight, std::int64_t n)>;

RunProblem on_cpu(const Flags& flags, const Session& session, const Asked& asked) {
  bench::RunOptions options;
  options.activations = asked.activations;
  options.precision = flags.precision == "exact" ? Precision::kExact : Precision::kBf16;
  if (flags.precision.empty() && asked.activations != DType::kBF16)
    options.precision = asked.dtype == DType::kF32 ? Precision::kExact : Precision::kBf16;
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

RunProblem on_gpu(const Flags& flags, const Session& session, const Asked& asked) {
  constexpr int kAll = 1 << 20;
  // Below it is far behind, and would take most of the time. (A random pattern has no exact share.)
  constexpr double kCusparseFrom = 0.899;
  bench::GpuRunOptions options;
  options.activations = asked.activations;
  options.layout = flags.layout == "features" ? Layout::kFeatureMajor : Layout::kTokenMajor;
  options.seconds = flags.seconds;
  options.only = flags.only;
  if (flags.all) options.measure = kAll;
  auto stream = std::make_shared<cuda::Stream>();
  std::map<std::array<std::int64_t, 3>, std::vector<bench::Row>> dense;
  return [=, &session, all = flags.all](const bench::BenchWeight& weight, std::int64_t n) mutable {
    std::vector<bench::Row>& rivals = dense[{weight.m, weight.k, n}];
    options.n = n;
    options.dense_rivals = rivals;
    options.cusparse = all || weight.sparsity >= kCusparseFrom;
    bench::Result result = bench::run_gpu_problem(weight, options, *stream, session.progress());
    rivals = bench::dense_rivals_of(result);
    return result;
  };
}

/// Kernels of a GPU have names by the thousand, others in every search: kept are the fastest of
/// each family and the rivals, in place of whatever the file had of the problem.
void save_gpu_rows(const std::filesystem::path& file, const OrderedJson& rows, bool all_families) {
  OrderedJson kept = OrderedJson::array();
  std::set<std::string> seen;
  for (const OrderedJson& row : rows) {
    const std::string method = row["method"];
    if (seen.insert(method.substr(0, method.find('.'))).second) kept.push_back(row);
  }
  if (all_families) return bench::save_rows(file, kept, bench::kOpsProblem);
  bench::save_rows(file, kept);
}

void run(const Flags& flags, const Session& session) {
  const DType dtype = parse_compute_dtype(flags.dtype, "--dtype");
  const bool on_device = session.device == "cuda" || (session.device == "auto" && cuda_support());
  const Asked asked{
      dtype,
      flags.activations.empty() ? dtype : parse_compute_dtype(flags.activations, "--activations"),
      on_device ? cuda::Device::get().facts().name : ""};
  require(on_device || flags.layout == "tokens", "--layout: expected tokens on the CPU, got {}",
          flags.layout);
  const RunProblem run_problem =
      on_device ? on_gpu(flags, session, asked) : on_cpu(flags, session, asked);

  const bool json = session.json || flags.output == "json";
  const bool quiet_table = json || flags.output == "csv";
  const bool markdown = flags.output == "md" || (flags.output.empty() && !stdout_is_terminal());
  const std::filesystem::path file =
      std::filesystem::path(flags.save.empty() ? "bench/results" : flags.save) /
      (on_device ? bench::folder_name(asked.gpu) : bench::device_name()) / "ops.csv";
  const bench::SavedProblems saved(flags.missing ? file : "");
  const auto start = std::chrono::steady_clock::now();
  OrderedJson rows = OrderedJson::array();
  std::int64_t left_out = 0;
  for (const bench::Case& c : bench::list_cases(flags.patterns, flags.shapes, flags.sparsities)) {
    LazyWeight weight({.m = c.m,
                       .k = c.k,
                       .sparsity = c.sparsity,
                       .dtype = dtype,
                       .pattern = c.pattern,
                       .seed = flags.seed});
    for (std::int64_t n : flags.ns) {
      bench::Context context = context_of(c, weight, flags, asked);
      context.n = n;
      if (saved.has(context)) continue;
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
      if (passed.count() > flags.within) {
        ++left_out;
        continue;
      }
      const bench::Result result = run_problem(weight.get(), n);
      OrderedJson fresh = OrderedJson::array();
      for (const bench::Row& row : result.rows) fresh.push_back(bench::row_to_json(row, context));
      // At once: a run that is stopped has lost one problem, not all.
      if (flags.save_given && on_device) save_gpu_rows(file, fresh, flags.only.empty());
      if (flags.save_given && !on_device) bench::save_rows(file, fresh);
      rows.insert(rows.end(), fresh.begin(), fresh.end());
      if (!quiet_table) print_problem(result, context, markdown);
    }
  }
  if (left_out > 0)
    fmt::print(stderr, "bench ops: {} problems were left out after {} s{}\n", left_out,
               flags.within,
               flags.save_given ? "; the same command with --missing measures them" : "");
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
  list(verb->add_option(
           "--pattern", flags->patterns,
           "uniform, blockskew, blockempty, outliers, rowskew, blocks such as 16x32, 2:4, or a "
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
  verb->add_option("--within", flags->within, "No new problem begins after this many seconds")
      ->check(number(0, 1e9));
  verb->add_flag(
      "--missing", flags->missing,
      "Only problems that the saved file does not have from this version of Rarefy; with "
      "--save");
  verb->add_option("--layout", flags->layout,
                   "tokens or features: which the rows of activations are; features on a GPU only")
      ->check(CLI::IsMember({"tokens", "features"}))
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
                 "the 24 best by estimate, and cuSPARSE below 90 % zeros");
  verb->add_option("--seed", flags->seed, "Of the pattern and the values")
      ->check(whole(0))
      ->capture_default_str();
  verb->add_option("-o,--output", flags->output, "md, text, csv or json")
      ->check(CLI::IsMember({"md", "text", "csv", "json"}));
  verb->add_option(
          "--save", flags->save,
          "Merge the rows into DIR/<device>/ops.csv (default DIR: bench/results); on a GPU "
          "the fastest of each family and the rivals")
      ->expected(0, 1)
      ->type_name("[DIR]");
  verb->footer(
      "Examples:\n  rarefy bench ops --shape 4096x14336 --n 1 --sparsity 0.5,0.7,0.9 --dtype bf16\n"
      "  rarefy bench ops --shape 4096x4096 --n 16,128 --pattern 16x32 --json\n"
      "  rarefy bench ops --pattern layer.smtx --dtype fp32 --n 128\n"
      "  rarefy bench ops --device cuda --shape 28672x8192 --n 1 --sparsity 0.99 --dtype fp16");
  verb->callback([flags, verb, &session] {
    flags->save_given = verb->get_option("--save")->count() > 0;
    require(flags->save_given || !flags->missing,
            "--missing: expected --save, whose file says what is there");
    run(*flags, session);
  });
}

}  // namespace rarefy::cli
