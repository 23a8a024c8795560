#include "cli/bench_ops_run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>

#include "base/check.h"
#include "cli/bench_ops_truth.h"

namespace rarefy::bench {
namespace {

using Clock = std::chrono::steady_clock;

/// Errors above this share of the largest result are wrong answers, not rounding: bf16 activations
/// keep 8 bits (2^-9 each, averaged out over a row), f32 sums of 10^4 terms lose far less.
constexpr double kWrong = 2e-2;
/// Methods this much slower than the best are not sampled after the third round.
constexpr double kHopeless = 5.0;
constexpr int kLeastRounds = 3;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

struct Series {
  std::vector<double> us;  ///< One a round; 0 where not sampled.
  bool retired = false;
  [[nodiscard]] std::vector<double> samples() const {
    std::vector<double> sampled;
    std::copy_if(us.begin(), us.end(), std::back_inserter(sampled), [](double x) { return x > 0; });
    return sampled;
  }
};

/// Median over the rounds that sampled both; the ratio of medians where there are none.
double paired_ratio(const Series& a, const Series& b) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < std::min(a.us.size(), b.us.size()); ++i) {
    if (a.us[i] > 0 && b.us[i] > 0) ratios.push_back(a.us[i] / b.us[i]);
  }
  if (ratios.empty()) return median(a.samples()) / std::max(median(b.samples()), 1e-9);
  return median(ratios);
}

double time_once(Method& method, int copy) {
  method.before();
  const auto begin = Clock::now();
  method.run(copy);
  const auto end = Clock::now();
  method.after();
  return std::chrono::duration<double, std::micro>(end - begin).count();
}

/// How many copies of every method it takes so that `rotate` bytes pass between two uses of one.
int copies_needed(const Methods& methods, std::size_t rotate) {
  std::size_t once = 0;
  for (const auto& method : methods) once += method->bytes();
  const std::size_t copies = (rotate + once - 1) / std::max<std::size_t>(once, 1);
  return static_cast<int>(std::clamp<std::size_t>(copies, 1, 1024));
}

std::vector<Series> time_round_robin(Methods& methods, const RunOptions& options,
                                     Progress& progress) {
  const int copies = copies_needed(methods, options.rotate);
  for (std::size_t i = 0; i < methods.size(); ++i) {
    progress.update("packing copies", static_cast<std::int64_t>(i), std::ssize(methods),
                    methods[i]->name());
    methods[i]->make_copies(copies);
  }
  std::vector<Series> series(methods.size());
  std::vector<std::size_t> order(methods.size());
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(1);
  const auto begin = Clock::now();
  for (int round = 0; round < options.repetitions; ++round) {
    const double elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
    if (round >= kLeastRounds && elapsed > options.seconds) break;
    progress.update("timing", round, options.repetitions, "");
    // Another order every round, so that none always follows the same neighbour.
    std::shuffle(order.begin(), order.end(), random);
    for (std::size_t i : order) {
      series[i].us.push_back(series[i].retired ? 0 : time_once(*methods[i], round % copies));
    }
    if (round + 1 != kLeastRounds) continue;
    double best = INFINITY;
    for (const Series& s : series) best = std::min(best, median(s.samples()));
    for (Series& s : series) s.retired = median(s.samples()) > kHopeless * best;
  }
  progress.update("timing", 1, 1, "");
  return series;
}

/// The row that the planner would run: its format and the kernel of its step for n.
std::size_t mark_chosen(std::vector<Row>& rows, const Plan& plan, std::int64_t n) {
  const std::string& kernel = plan.step(n).kernel;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].method == kernel && rows[i].format == plan.format.name()) {
      rows[i].chosen = true;
      return i;
    }
  }
  fail(ErrorKind::kInternal, "bench ops: the plan's {} on {} is not among the methods", kernel,
       plan.format.name());
}

}  // namespace

Result run_problem(const BenchWeight& weight, const RunOptions& options, Planner& planner,
                   ThreadPool& pool, Progress& progress) {
  const Buffer b = make_activations(options.n, weight.k, options.activations);
  Buffer c(static_cast<std::size_t>(options.n * weight.m) * sizeof(float));
  const Problem problem{.weight = weight,
                        .n = options.n,
                        .activations = options.activations,
                        .precision = options.precision,
                        .b = {b.data(), options.activations, options.n, weight.k, weight.k},
                        .c = {c.data(), DType::kF32, options.n, weight.m, weight.m},
                        .pool = pool};

  const DenseSource source = weight.source();
  const PatternStats pattern = pattern_stats(source, pool);
  PlanRequest request;
  request.workloads = {{options.n, 1.0}};
  request.activations = options.activations;
  request.precision = options.precision;
  progress.update("planning", 0, 1, "");
  const Plan plan = planner.plan(source, pattern, request);
  const MachineCeilings& ceilings = planner.ceilings();
  const std::optional<BlockCalibration> calibration = planner.calibration();

  Result result;
  Methods methods = our_methods(problem, pattern, ceilings, calibration ? &*calibration : nullptr,
                                options.all_kernels, result.skipped);
  const auto is_planned = [&](const std::unique_ptr<Method>& m) {
    return m->name() == plan.step(options.n).kernel && m->format() == plan.format.name();
  };
  if (std::none_of(methods.begin(), methods.end(), is_planned)) {
    const SpmmKernel* kernel = find_spmm_kernel(plan.step(options.n).kernel);
    require(kernel != nullptr, "bench ops: the plan has no kernel for n = {}", options.n);
    methods.push_back(our_method(problem, pattern, ceilings, plan.format, *kernel));
  }
  for (auto& rival : rival_methods(problem, ceilings, result.skipped))
    methods.push_back(std::move(rival));
  if (!options.only.empty()) {
    std::erase_if(methods, [&](const std::unique_ptr<Method>& m) {
      return !m->dense() && !is_planned(m) &&
             (m->name() + " " + m->format()).find(options.only) == std::string::npos;
    });
  }

  const Truth truth(weight, problem.b);
  for (const auto& method : methods) {
    progress.update("checking", 0, 1, method->name());
    std::fill_n(static_cast<float*>(problem.c.data), options.n * weight.m, NAN);
    time_once(*method, 0);
    Row row{.method = method->name(), .format = method->format(), .dense = method->dense()};
    row.bytes = method->bytes();
    row.max_rel_err = truth.error(problem.c);
    if (!(row.max_rel_err <= kWrong)) {
      fail(ErrorKind::kInternal,
           "bench ops: {} on {}: expected an error of at most {} of the largest result, got {}",
           row.method, row.format, kWrong, row.max_rel_err);
    }
    result.rows.push_back(std::move(row));
  }

  const std::vector<Series> series = time_round_robin(methods, options, progress);
  std::size_t best_dense = 0;
  double best_dense_us = INFINITY;
  for (std::size_t i = 0; i < methods.size(); ++i) {
    Row& row = result.rows[i];
    const std::vector<double> samples = series[i].samples();
    row.median_us = median(samples);
    row.min_us = *std::min_element(samples.begin(), samples.end());
    row.max_us = *std::max_element(samples.begin(), samples.end());
    row.gb_per_s = static_cast<double>(row.bytes) / (row.median_us * 1e3);
    row.roofline = methods[i]->floor_us / row.median_us;
    if (row.dense && row.median_us < best_dense_us) {
      best_dense = i;
      best_dense_us = row.median_us;
    }
  }
  for (std::size_t i = 0; i < methods.size(); ++i)
    result.rows[i].speedup_vs_best_dense = paired_ratio(series[best_dense], series[i]);
  mark_chosen(result.rows, plan, options.n);
  std::stable_sort(result.rows.begin(), result.rows.end(),
                   [](const Row& a, const Row& b2) { return a.median_us < b2.median_us; });
  return result;
}

}  // namespace rarefy::bench
