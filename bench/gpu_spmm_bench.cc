// `rarefy bench ops --device cuda` in bulk, and how good the search is. One CSV row a problem: the
// kernel that the search chose beside the best dense product of cuBLAS and cuBLASLt on the same
// zero-filled weight, and the best of cuSPARSE. Every answer is checked first.
//
//   rarefy-gpu-bench --shapes 14336x4096,28672x8192 --sparsity 0.9,0.99 --n 1,16 --dtype f16
//   rarefy-gpu-bench --patterns rowskew,blockskew,layer.smtx --n 64 --dtype f32
//   rarefy-gpu-bench --quality …   the choice against measuring every kernel, cold and warm
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <map>

#include "cli/bench_ops_gpu.h"
#include "cli/version.h"
#include "cuda/driver.h"
#include "ops/spmm/cuda/search.h"
#include "rarefy/progress.h"

namespace rarefy::bench {
namespace {

struct Options {
  std::vector<std::string> shapes{"14336x4096", "4096x14336", "28672x8192", "4096x4096"};
  std::vector<double> sparsities{0.5, 0.7, 0.9, 0.95, 0.99};
  std::vector<std::int64_t> ns{1, 8, 16, 64};
  std::vector<std::string> patterns{"uniform"};
  std::string dtype = "f16", only, layout = "tokens";
  int measure = 24, top = 1;
  double cusparse_from = 0.9;  ///< Sparsity from which cuSPARSE is a rival worth its time.
  bool quality = false;
};

struct Case {
  std::int64_t m = 0, k = 0;
  double sparsity = 0;
  std::string pattern;
};

bool is_file(const std::string& pattern) {
  return pattern.ends_with(".smtx") || pattern.ends_with(".mtx");
}

/// A file brings its own shape and sparsity.
std::vector<Case> cases_of(const Options& options) {
  std::vector<Case> cases;
  for (const std::string& pattern : options.patterns) {
    if (is_file(pattern)) {
      cases.push_back({.pattern = pattern});
      continue;
    }
    for (const std::string& text : options.shapes) {
      Case c{.pattern = pattern};
      if (std::sscanf(text.c_str(), "%ldx%ld", &c.m, &c.k) != 2 || c.m < 1 || c.k < 1)
        throw Error(ErrorKind::kInvalidArgument, "--shapes: expected MxK, got " + text);
      for (const double sparsity : options.sparsities) {
        c.sparsity = sparsity;
        cases.push_back(c);
      }
    }
  }
  return cases;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

/// Dense products do not know the pattern: timed once a shape and N.
using DenseTimes = std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, Row>;

void run_case(const Options& options, const Case& c, const BenchWeight& weight, std::int64_t n,
              DenseTimes& dense_times, const cuda::Stream& stream) {
  const std::tuple key{weight.m, weight.k, n};
  const GpuResult result = run_gpu_problem(
      weight,
      {.n = n,
       .activations = weight.dtype,
       .layout = options.layout == "tokens" ? Layout::kTokenMajor : Layout::kFeatureMajor,
       .measure = options.measure,
       .only = options.only,
       .dense_rivals = !dense_times.contains(key),
       .sparse_rivals = weight.sparsity >= options.cusparse_from || is_file(c.pattern)},
      stream, no_progress());
  Row cusparse;
  std::vector<std::pair<Row, double>> ours;
  for (std::size_t i = 0; i < result.rows.size(); ++i) {
    const Row& row = result.rows[i];
    if (row.method.starts_with("cusparse")) {
      cusparse = row;
    } else if (row.method.starts_with("cublas")) {
      Row& best = dense_times[key];
      if (best.median_us == 0 || row.median_us < best.median_us) best = row;
    } else {
      ours.emplace_back(row, result.estimates_us[i]);
    }
  }
  const Row& dense = dense_times[key];
  const auto over = [](const Row& rival, const Row& row) {
    return rival.median_us > 0 ? rival.median_us / row.median_us : 0.0;
  };
  for (std::size_t i = 0; i < ours.size() && i < static_cast<std::size_t>(options.top); ++i) {
    const Row& row = ours[i].first;
    fmt::print(
        "{},{},{},{:.4f},{},{},{},{},{:.2f},{:.2f},{:.2f},{:.2f},{:.3f},{:.2f},{:.2f},{},{:.3f},"
        "{:.2f},{},{:.2f},{:.1e},{:.1f},{},{}\n",
        weight.m, weight.k, n, is_file(c.pattern) ? weight.sparsity : c.sparsity,
        is_file(c.pattern) ? std::filesystem::path(c.pattern).filename().string() : c.pattern,
        options.dtype, options.layout, row.method, row.median_us, row.min_us, row.max_us,
        ours[i].second, row.roofline, static_cast<double>(row.bytes) / 1e6, dense.median_us,
        dense.method, over(dense, row), cusparse.median_us, cusparse.method, over(cusparse, row),
        row.max_rel_err, result.search_s, today(), cli::commit());
  }
  std::fflush(stdout);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The default search with no kernel compiled and with all compiled, and every kernel measured. The
/// share of the optimum comes from the exhaustive run alone: two times of one kernel differ, too.
void run_quality(const Options& options, const Case& c, const BenchWeight& weight, std::int64_t n,
                 const cuda::Stream& stream) {
  const DenseSource source = weight.source();
  const PatternStats pattern = pattern_stats(source);
  const MatrixPtr csr = pack(source, format::kCsr32);
  const gpu::Problem problem{.m = weight.m,
                             .k = weight.k,
                             .n = n,
                             .weight = weight.dtype,
                             .activations = weight.dtype,
                             .output = weight.dtype};
  const gpu::Weight packed{&source, &pattern, csr};
  std::filesystem::remove_all(std::getenv("RAREFY_CACHE"));
  const auto search = [&](gpu::SearchOptions search_options, double& seconds) {
    search_options.use_cache = false;
    const auto start = std::chrono::steady_clock::now();
    gpu::Choice choice = gpu::choose(packed, problem, stream, search_options);
    seconds = seconds_since(start);
    return choice;
  };
  double cold_s = 0;
  double warm_s = 0;
  double all_s = 0;
  (void)search({}, cold_s);
  const gpu::Choice chosen = search({}, warm_s);
  const gpu::Choice all = search({.measure_best = 100000, .time_budget_s = 120}, all_s);
  const auto time_of = [&](const std::string& name) {
    for (const gpu::Tried& tried : all.tried) {
      if (tried.name == name) return tried.measured_us;
    }
    return 0.0;
  };
  // What runs without a search: the best estimate.
  const std::string untuned =
      gpu::enumerate(problem, pattern, stream.device().facts()).front().name;
  fmt::print("{},{},{},{:.2f},{},{},{},{:.2f},{},{:.2f},{:.3f},{},{:.2f},{},{:.2f},{:.2f},{:.1f}\n",
             weight.m, weight.k, n, c.sparsity, c.pattern, options.dtype, all.name, all.time_us,
             chosen.name, time_of(chosen.name), all.time_us / time_of(chosen.name), untuned,
             time_of(untuned), all.tried.size(), cold_s, warm_s, all_s);
  std::fflush(stdout);
}

int run(const Options& options) {
  const cuda::Stream stream;
  const cuda::DeviceFacts& facts = stream.device().facts();
  fmt::print("# {}, {} multiprocessors, {:.0f} GB/s, NVRTC {}, driver {}\n", facts.name,
             facts.multiprocessors, facts.memory_gb_per_s, cuda::compiler_state().version,
             cuda::driver_state().version);
  fmt::print(
      "{}\n",
      options.quality
          ? "m,k,n,sparsity,pattern,dtype,optimum,optimum_us,chosen,chosen_us,share,untuned,"
            "untuned_us,kernels,cold_s,warm_s,all_s"
          : "m,k,n,sparsity,pattern,dtype,layout,kernel,us,min_us,max_us,estimate_us,roofline,mb,"
            "dense_us,dense,over_dense,cusparse_us,cusparse,over_cusparse,error,search_s,date,"
            "commit");
  const std::optional<DType> dtype = parse_dtype(options.dtype);
  if (!dtype) throw Error(ErrorKind::kInvalidArgument, "--dtype: " + options.dtype);
  DenseTimes dense_times;
  for (const Case& c : cases_of(options)) {
    const BenchWeight weight = make_weight(
        {.m = c.m, .k = c.k, .sparsity = c.sparsity, .dtype = *dtype, .pattern = c.pattern});
    for (const std::int64_t n : options.ns) {
      if (options.quality) {
        run_quality(options, c, weight, n, stream);
      } else {
        run_case(options, c, weight, n, dense_times, stream);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace rarefy::bench

int main(int argc, char** argv) {
  CLI::App app{"SpMM kernels on a GPU against their rivals"};
  rarefy::bench::Options options;
  app.add_option("--shapes", options.shapes, "MxK, separated by commas")->delimiter(',');
  app.add_option("--sparsity", options.sparsities, "Shares of zeros")->delimiter(',');
  app.add_option("--n", options.ns, "Columns of B")->delimiter(',');
  app.add_option("--patterns", options.patterns,
                 "uniform, rowskew, blockskew, blocks such as 16x32, or .smtx files")
      ->delimiter(',');
  app.add_option("--dtype", options.dtype, "f16, bf16 or f32");
  app.add_option("--layout", options.layout, "tokens or features");
  app.add_option("--only", options.only, "Kernels whose name starts with this");
  app.add_option("--measure", options.measure, "Kernels to measure");
  app.add_option("--cusparse-from", options.cusparse_from,
                 "Sparsity from which cuSPARSE runs, too");
  app.add_option("--top", options.top, "Rows a case: the best kernels");
  app.add_flag("--quality", options.quality,
               "The search against all kernels, in an empty kernel cache of its own");
  CLI11_PARSE(app, argc, argv);
  std::filesystem::path cache;
  try {
    if (options.quality) {
      cache = std::filesystem::temp_directory_path() / fmt::format("rarefy-gpu-bench-{}", getpid());
      setenv("RAREFY_CACHE", cache.c_str(), 1);
    }
    const int status = rarefy::bench::run(options);
    if (!cache.empty()) std::filesystem::remove_all(cache);
    return status;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
