// The planner's life: cache, ceilings, search; what is asked of it goes through here.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <string>

#include "base/cache_folder.h"
#include "base/check.h"
#include "base/measure_lock.h"
#include "ops/spmm/calibration/calibration_file.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/kernel_hash.h"
#include "planner/ceilings.h"
#include "planner/cpu_runner.h"
#include "planner/estimate.h"
#include "planner/partition.h"
#include "planner/pattern_class.h"
#include "planner/plan_cache.h"
#include "planner/planner_impl.h"
#include "planner/search.h"
#include "rarefy/cpu.h"
#include "rarefy/log.h"

namespace rarefy {
namespace {

/// Raised when the way of measuring or choosing changes: older plans are misses.
constexpr int kPolicyVersion = 7;

/// A timing with a larger standard error teaches nothing.
constexpr double kMostNoise = 0.15;

/// A weight this large cannot have come from a private cache.
constexpr std::size_t kTellingBytes = std::size_t{32} << 20;

bool environment_flag(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && std::string_view(value) == "1";
}

std::int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

Json workload_key(const std::vector<Workload>& workloads) {
  Json key = Json::array();
  for (const Workload& w : workloads) {
    // Buckets of powers of two: a plan for 100 columns serves 128 too.
    std::int64_t bucket = 1;
    while (bucket < w.n) bucket *= 2;
    key.push_back({{"n", bucket}, {"weight", w.weight}});
  }
  return key;
}

void check_request(const PlanRequest& request) {
  require(!request.workloads.empty(), "plan: workloads: expected at least one, got none");
  double sum = 0;
  for (const Workload& w : request.workloads) {
    require(w.n >= 1, "plan: workloads: expected n of at least 1, got {}", w.n);
    require(w.weight >= 0, "plan: workloads: expected a weight of at least 0, got {}", w.weight);
    sum += w.weight;
  }
  require(sum > 0, "plan: workloads: expected a positive weight, got only zeros");
}

/// What the plan is for, so that another weight is noticed.
void note_weight(Plan& plan, const PatternStats& pattern) {
  plan.rows = pattern.rows;
  plan.cols = pattern.cols;
  plan.nnz = pattern.nnz;
}

/// Kernels come and go with builds and instruction sets that a key cannot foresee.
bool still_runs(const Plan& plan, const RowSource& weight, const PlanRequest& request,
                int threads) {
  return std::all_of(plan.steps.begin(), plan.steps.end(), [&](const PlanStep& step) {
    if (step.kernel.empty()) return true;
    const SpmmKernel* kernel = find_spmm_kernel(step.kernel);
    return kernel != nullptr &&
           kernel->supports(plan.format,
                            planning::problem_for(weight, request, step.n_min, threads));
  });
}

}  // namespace

Planner::Impl::Impl(Options given, ThreadPool& threads)
    : options(std::move(given)),
      pool(threads),
      cache(!options.use_cache          ? std::filesystem::path()
            : options.cache_dir.empty() ? cache_folder()
                                        : options.cache_dir) {
  options.freeze = options.freeze || environment_flag("RAREFY_FREEZE");
  explain = environment_flag("RAREFY_EXPLAIN");
}

const MachineCeilings& Planner::Impl::get_ceilings(bool may_measure) {
  const Json key = planning::machine_key(pool.size());
  if (!ceilings) ceilings = cache.find_ceilings(key);
  if (!may_measure || options.freeze) {
    if (!ceilings) ceilings = planning::KnownCeilings{planning::assumed_ceilings(pool.size())};
    return ceilings->best;
  }
  if (ceilings && (refreshed || !planning::is_due(*ceilings, unix_seconds())))
    return ceilings->best;
  const MeasureLock lock(cache.directory());
  ceilings = cache.find_ceilings(key);  // Another process may have been first.
  if (!ceilings || planning::is_due(*ceilings, unix_seconds())) {
    const MachineCeilings now = planning::measure_ceilings(pool);
    ceilings = ceilings ? planning::best_of_both(*ceilings, now, unix_seconds())
                        : planning::KnownCeilings{now, unix_seconds(), 1};
    cache.store_ceilings(key, *ceilings);
  }
  refreshed = true;
  return ceilings->best;
}

const BlockCalibration* Planner::Impl::get_calibration() {
  if (!calibration_read) {
    calibration_read = true;
    calibration =
        find_calibration(cache.directory(), cpu_calibration_key(pool.size()), calibration_reason);
  }
  return calibration ? &*calibration : nullptr;
}

std::vector<FormatSpec> Planner::Impl::hybrids(const RowSource& weight, const PatternStats& pattern,
                                               const PlanRequest& request) {
  if (active_isa() < Isa::kAmx) return {};
  return planning::hybrid_formats(pattern, weight.dtype(), request, get_calibration());
}

Json Planner::Impl::key_of(const RowSource& weight, const PatternStats& pattern,
                           std::span<const FormatSpec> nm_formats,
                           const PlanRequest& request) const {
  Json formats = Json::array();
  for (const FormatSpec& format : request.formats) formats.push_back(format.name());
  Json fitting = Json::array();
  for (const FormatSpec& format : nm_formats) fitting.push_back(format.name());
  // A budget above every format decides nothing; one below belongs to this very weight.
  const double dense =
      static_cast<double>(estimate_packed_bytes(format::kDense, pattern, weight.dtype()));
  const bool binding = static_cast<double>(request.memory_budget) < 1.5 * dense;
  return {{"kernels", kernel_source_hash()},
          {"machine", planning::machine_key(pool.size())},
          {"policy", kPolicyVersion},
          {"m", weight.rows()},
          {"k", weight.cols()},
          {"weight", to_string(weight.dtype())},
          {"activations", to_string(request.activations)},
          {"output", to_string(request.output)},
          {"precision", request.precision == Precision::kExact ? "exact" : "bf16"},
          {"workloads", workload_key(request.workloads)},
          {"formats", formats},
          {"only_kernels", request.kernels},
          {"n:m", fitting},
          {"pattern", planning::pattern_class(pattern)},
          {"from_cache", planning::stays_in_cache(request.working_set)},
          {"budget", binding ? Json(request.memory_budget) : Json(nullptr)},
          {"nnz_if_budget", binding ? Json(pattern.nnz) : Json(nullptr)}};
}

std::optional<Plan> Planner::Impl::cached(const Json& key, const RowSource& weight,
                                          const PatternStats& pattern,
                                          const PlanRequest& request) const {
  std::optional<planning::CachedPlan> found = cache.find_plan(key);
  if (!found) return std::nullopt;
  if (!options.freeze && found->effort.measured_best < request.measure_best) return std::nullopt;
  const bool may_finish = !options.freeze && request.measure_best > 0;
  if (may_finish && !found->effort.complete && found->effort.time_budget_s < request.time_budget_s)
    return std::nullopt;
  Plan& plan = found->plan;
  if (!still_runs(plan, weight, request, pool.size())) return std::nullopt;
  // The entry may come from another weight of the same class: times carry over, bytes do not.
  plan.bytes = estimate_packed_bytes(plan.format, pattern, weight.dtype());
  plan.dense_bytes = estimate_packed_bytes(format::kDense, pattern, weight.dtype());
  for (Candidate& c : plan.candidates) {
    if (!c.kernel.empty()) c.bytes = estimate_packed_bytes(c.format, pattern, weight.dtype());
  }
  plan.from_cache = true;
  note_weight(plan, pattern);
  return std::move(found->plan);
}

Plan Planner::Impl::make_plan(const RowSource& weight, const PatternStats& pattern,
                              const PlanRequest& request) {
  check_request(request);
  require(pattern.rows == weight.rows() && pattern.cols == weight.cols(),
          "plan: pattern: expected {}x{}, got {}x{}", weight.rows(), weight.cols(), pattern.rows,
          pattern.cols);
  std::vector<FormatSpec> nm_formats = planning::fitting_nm(weight, pattern, pool);
  for (const FormatSpec& hybrid : hybrids(weight, pattern, request)) nm_formats.push_back(hybrid);
  const Json key = key_of(weight, pattern, nm_formats, request);
  if (std::optional<Plan> plan = cached(key, weight, pattern, request)) return *std::move(plan);

  const bool may_measure = !options.freeze && request.measure_best > 0;
  const planning::SearchInputs inputs{weight,      pattern,        request,
                                      nm_formats,  spmm_kernels(), get_ceilings(may_measure),
                                      pool.size(), &get_scales()};
  if (!may_measure) return planning::search(inputs, nullptr).plan;

  const MeasureLock lock(cache.directory());
  if (std::optional<Plan> plan = cached(key, weight, pattern, request)) return *std::move(plan);
  planning::CpuRunner runner(weight, request, evictor, pool);
  planning::SearchResult result = planning::search(inputs, &runner);
  learn_from(result.plan, request);
  learn_scales(result.plan, weight, request);
  cache.store_plan(key, {result.plan,
                         {.measured_best = request.measure_best,
                          .time_budget_s = request.time_budget_s,
                          .complete = result.complete}});
  return std::move(result.plan);
}

void Planner::Impl::learn_from(const Plan& plan, const PlanRequest& request) {
  if (planning::stays_in_cache(request.working_set)) return;
  double fastest = 0;
  for (const Candidate& c : plan.candidates) {
    if (c.measured_us > 0 && c.bytes >= kTellingBytes)
      fastest = std::max(fastest, static_cast<double>(c.bytes) / (c.measured_us * 1e3));
  }
  if (fastest <= ceilings->best.dram_gb_per_s) return;
  ceilings->best.dram_gb_per_s = fastest;
  cache.store_ceilings(planning::machine_key(pool.size()), *ceilings);
}

Json Planner::Impl::scales_key() const {
  return {{"machine", planning::machine_key(pool.size())}, {"kernels", kernel_source_hash()}};
}

const planning::KernelScales& Planner::Impl::get_scales() {
  if (!scales) scales = cache.find_scales(scales_key());
  return *scales;
}

void Planner::Impl::learn_scales(const Plan& plan, const RowSource& weight,
                                 const PlanRequest& request) {
  const planning::KernelScales used = get_scales();
  planning::KernelScales kept = cache.find_scales(scales_key());
  if (!kept.empty()) scales = std::move(kept);  // Other processes learn, too.
  const bool from_cache = planning::stays_in_cache(request.working_set);
  for (const Candidate& c : plan.candidates) {
    const SpmmKernel* kernel = c.measured_us > 0 ? find_spmm_kernel(c.kernel) : nullptr;
    if (kernel == nullptr || c.estimate_us <= 0 || c.noise > kMostNoise) continue;
    const SpmmProblem problem = planning::problem_for(weight, request, c.n, pool.size());
    const double plain = c.estimate_us / used.of(*kernel, c.format, problem, from_cache);
    scales->learn(*kernel, c.format, problem, from_cache, c.measured_us / plain);
  }
  cache.store_scales(scales_key(), *scales);
}

Planner::Planner(Options options, ThreadPool& pool)
    : impl_(std::make_unique<Impl>(std::move(options), pool)) {}
Planner::~Planner() = default;

Plan Planner::plan(const RowSource& weight, const PlanRequest& request) {
  return plan(weight, pattern_stats(weight, impl_->pool), request);
}

Plan Planner::plan(const RowSource& weight, const PatternStats& pattern,
                   const PlanRequest& request) {
  const std::scoped_lock lock(impl_->mutex);
  Plan plan = impl_->make_plan(weight, pattern, request);
  if (impl_->explain && log_enabled()) log_lines(describe(plan));
  return plan;
}

const MachineCeilings& Planner::ceilings() {
  const std::scoped_lock lock(impl_->mutex);
  return impl_->get_ceilings(true);
}

std::optional<BlockCalibration> Planner::calibration(std::string* reason) {
  const std::scoped_lock lock(impl_->mutex);
  const BlockCalibration* found = impl_->get_calibration();
  if (reason != nullptr) *reason = impl_->calibration_reason;
  return found != nullptr ? std::optional(*found) : std::nullopt;
}

ThreadPool& Planner::pool() const {
  return impl_->pool;
}

std::size_t estimate_packed_bytes(const FormatSpec& spec, const PatternStats& pattern,
                                  DType dtype) {
  return static_cast<std::size_t>(std::llround(estimated_bytes(spec, pattern, dtype)));
}

}  // namespace rarefy
