#include "cli/bench_ops_gpu.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>

#include "base/check.h"
#include "cli/bench_ops_gpu_case.h"
#include "cli/bench_ops_gpu_rivals.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy::bench {
namespace {

/// Errors above this share of the largest result are wrong answers, not rounding: results are
/// rounded to 8 bits (bf16) or more, sums are f32.
constexpr double kWrong = 1e-2;

/// "csr16" of "composed.csr16.g8.v4…": what is stored.
std::string format_of(const std::string& kernel) {
  if (kernel.starts_with("dense")) return "dense";
  const std::size_t dot = kernel.find('.');
  if (dot == std::string::npos) return kernel;
  return kernel.substr(dot + 1, kernel.find('.', dot + 1) - dot - 1);
}

void check_error(const std::string& name, double error) {
  if (error <= kWrong) return;
  fail(ErrorKind::kInternal,
       "bench ops: {}: expected an error of at most {} of the largest result, got {}", name, kWrong,
       error);
}

void add_rival(Result& result, const RivalTime& rival, bool dense) {
  if (rival.us == 0) {
    result.skipped.push_back({rival.name, rival.reason});
    return;
  }
  check_error(rival.name, rival.error);
  result.rows.push_back({.method = rival.name,
                         .format = dense ? "dense" : "csr32",
                         .median_us = rival.us,
                         .min_us = rival.least_us,
                         .max_us = rival.most_us,
                         .bytes = rival.bytes,
                         .max_rel_err = rival.error,
                         .dense = dense});
}

}  // namespace

std::vector<Row> dense_rivals_of(const Result& result) {
  std::vector<Row> rows;
  std::copy_if(result.rows.begin(), result.rows.end(), std::back_inserter(rows),
               [](const Row& row) { return row.method.starts_with("cublas"); });
  return rows;
}

Result run_gpu_problem(const BenchWeight& weight, const GpuRunOptions& options,
                       const cuda::Stream& stream, Progress& progress) {
  progress.update("preparing", 0, 1, "");
  const GpuCase problem(weight, options.n, options.activations, stream);
  const gpu::Problem spmm{.m = weight.m,
                          .k = weight.k,
                          .n = options.n,
                          .weight = weight.dtype,
                          .activations = options.activations,
                          .output = options.activations,
                          .layout = options.layout};
  const bool tokens = options.layout == Layout::kTokenMajor;
  std::map<std::string, double> errors;
  const auto check = [&](const std::string& name, const gpu::Operator& op) {
    problem.poison();
    op.enqueue(stream, {.b = problem.b(options.layout),
                        .b_stride = tokens ? weight.k : options.n,
                        .c = problem.c(),
                        .c_stride = tokens ? weight.m : options.n,
                        .n = options.n});
    errors[name] = problem.error(options.layout);
    check_error(name, errors[name]);
    progress.update("measuring", std::ssize(errors), options.measure, name);
  };
  const gpu::Choice choice = gpu::choose(
      {problem.weight_source(), &problem.pattern(), problem.csr_pointer()}, spmm, stream,
      {.measure_best = options.measure,
       .time_budget_s = options.seconds,
       .only = options.only,
       .use_cache = false,
       .inspect = check});
  Result result;
  for (const gpu::Tried& tried : choice.tried) {
    if (tried.measured_us == 0) continue;
    result.rows.push_back({.method = tried.name,
                           .format = format_of(tried.name),
                           .median_us = tried.measured_us,
                           .min_us = tried.least_us,
                           .max_us = tried.most_us,
                           .bytes = tried.bytes,
                           .max_rel_err = errors.at(tried.name),
                           .chosen = tried.name == choice.name,
                           .estimate_us = tried.estimate_us,
                           .dense = tried.name.starts_with("dense")});
  }
  std::map<std::string, int> skipped;  // A reason a line, however many kernels it stopped.
  for (const gpu::Tried& tried : choice.tried) {
    if (tried.refused)
      if (skipped[tried.reason]++ == 0) result.skipped.push_back({tried.name, tried.reason});
  }
  progress.update("rivals", 0, 1, "");
  if (options.dense_rivals.empty()) {
    add_rival(result, time_cublaslt(problem), true);
    add_rival(result, time_cublas(problem), true);
  } else {
    result.rows.insert(result.rows.end(), options.dense_rivals.begin(), options.dense_rivals.end());
  }
  if (options.cusparse)
    add_rival(result, time_cusparse(problem), false);
  else
    result.skipped.push_back({"cusparse", "timed from 90 % zeros on, and with --all"});
  progress.update("rivals", 1, 1, "");

  double best_dense_us = INFINITY;
  for (const Row& row : result.rows) {
    if (row.dense) best_dense_us = std::min(best_dense_us, row.median_us);
  }
  const double bytes_a_us = stream.device().facts().memory_gb_per_s * 1e3;
  for (Row& row : result.rows) {
    row.gb_per_s = static_cast<double>(row.bytes) / (row.median_us * 1e3);
    row.roofline = static_cast<double>(row.bytes) / bytes_a_us / row.median_us;
    if (std::isfinite(best_dense_us)) row.speedup_vs_best_dense = best_dense_us / row.median_us;
  }
  return result;
}

}  // namespace rarefy::bench
