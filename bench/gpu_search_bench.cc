// How good the search for a kernel is: its choice against every kernel measured, cold (nothing
// compiled) and warm. One CSV row a problem. `rarefy bench ops --device cuda` times operators.
//
//   rarefy-gpu-search-bench --shapes 14336x4096 --sparsity 0.7,0.95 --n 1,16
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "base/check.h"
#include "cli/bench_ops_cases.h"
#include "cli/bench_ops_weights.h"
#include "cli/version.h"
#include "cuda/compiler.h"
#include "cuda/driver.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy::bench {
namespace {

struct Options {
  std::vector<std::string> shapes{"14336x4096", "4096x4096"};
  std::vector<double> sparsities{0.7, 0.95};
  std::vector<std::int64_t> ns{1, 16};
  std::vector<std::string> patterns{"uniform"};
  std::string dtype = "f16";
};

/// A kernel cache of this run alone, empty at first.
class OwnCache {
 public:
  OwnCache() { setenv("RAREFY_CACHE", folder_.c_str(), 1); }
  OwnCache(const OwnCache&) = delete;
  OwnCache& operator=(const OwnCache&) = delete;
  ~OwnCache() { clear(); }
  void clear() const { std::filesystem::remove_all(folder_); }

 private:
  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / fmt::format("rarefy-gpu-search-bench-{}", getpid());
};

/// The choice and how long it took.
std::pair<gpu::Choice, double> search(const gpu::Weight& weight, const gpu::Problem& problem,
                                      const cuda::Stream& stream, gpu::SearchOptions options) {
  options.use_cache = false;
  const auto start = std::chrono::steady_clock::now();
  gpu::Choice choice = gpu::choose(weight, problem, stream, options);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return {std::move(choice), took.count()};
}

/// The share of the optimum comes from the exhaustive run alone: two times of one kernel differ,
/// too.
void run_problem(const Case& c, const BenchWeight& weight, std::int64_t n, const OwnCache& cache,
                 const cuda::Stream& stream) {
  const DenseSource source = weight.source();
  const PatternStats pattern = pattern_stats(source);
  const gpu::Problem problem{.m = weight.m,
                             .k = weight.k,
                             .n = n,
                             .weight = weight.dtype,
                             .activations = weight.dtype,
                             .output = weight.dtype};
  const gpu::Weight packed{&source, &pattern, pack(source, format::kCsr32)};
  cache.clear();
  const double cold_s = search(packed, problem, stream, {}).second;
  const auto [chosen, warm_s] = search(packed, problem, stream, {});
  const auto [all, all_s] =
      search(packed, problem, stream, {.measure_best = 100000, .time_budget_s = 120});
  const auto time_of = [&tried = all.tried](const std::string& name) {
    const auto found = std::find_if(tried.begin(), tried.end(),
                                    [&](const gpu::Tried& t) { return t.name == name; });
    return found == tried.end() ? 0.0 : found->measured_us;
  };
  // What runs without a search: the best estimate.
  const std::string untuned =
      gpu::enumerate(problem, pattern, stream.device().facts()).front().name;
  fmt::print(
      "{},{},{},{:.4f},{},{},{},{:.2f},{},{:.2f},{:.3f},{},{:.2f},{},{:.2f},{:.2f},{:.1f},{}\n",
      weight.m, weight.k, n, weight.sparsity, c.pattern, to_string(weight.dtype), all.name,
      all.time_us, chosen.name, time_of(chosen.name), all.time_us / time_of(chosen.name), untuned,
      time_of(untuned), all.tried.size(), cold_s, warm_s, all_s, cli::commit());
  std::fflush(stdout);
}

void run(const Options& options) {
  const std::optional<DType> dtype = parse_dtype(options.dtype);
  require(dtype.has_value() && is_compute_dtype(*dtype),
          "--dtype: expected f16, bf16 or f32, got '{}'", options.dtype);
  const OwnCache cache;
  const cuda::Stream stream;
  const cuda::DeviceFacts& facts = stream.device().facts();
  fmt::print("# {}, {} multiprocessors, {:.0f} GB/s, NVRTC {}, driver {}\n", facts.name,
             facts.multiprocessors, facts.memory_gb_per_s, cuda::compiler_state().version,
             cuda::driver_state().version);
  fmt::print(
      "m,k,n,sparsity,pattern,dtype,optimum,optimum_us,chosen,chosen_us,share,untuned,untuned_us,"
      "kernels,cold_s,warm_s,all_s,commit\n");
  for (const Case& c : list_cases(options.patterns, options.shapes, options.sparsities)) {
    const BenchWeight weight = make_weight(
        {.m = c.m, .k = c.k, .sparsity = c.sparsity, .dtype = *dtype, .pattern = c.pattern});
    for (const std::int64_t n : options.ns) run_problem(c, weight, n, cache, stream);
  }
}

}  // namespace
}  // namespace rarefy::bench

int main(int argc, char** argv) {
  CLI::App app{
      "The search for a GPU kernel against measuring every one, in a kernel cache of its own"};
  rarefy::bench::Options options;
  app.add_option("--shapes", options.shapes, "MxK, separated by commas")->delimiter(',');
  app.add_option("--sparsity", options.sparsities, "Shares of zeros")->delimiter(',');
  app.add_option("--n", options.ns, "Columns of B")->delimiter(',');
  app.add_option("--patterns", options.patterns, "As of rarefy bench ops")->delimiter(',');
  app.add_option("--dtype", options.dtype, "f16, bf16 or f32");
  CLI11_PARSE(app, argc, argv);
  try {
    rarefy::bench::run(options);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
