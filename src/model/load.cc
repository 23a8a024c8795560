// From a checkpoint to packed weights: plan, pack, let the file's pages go; one weight at a time,
// so that memory peaks near the packed size.
#include "model/load.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "model/staging.h"

namespace rarefy::model {
namespace {

PlanRequest request_of(const LoadOptions& options, std::size_t working_set) {
  PlanRequest request;
  request.workloads = options.workloads;
  request.precision = options.precision;
  request.formats = options.formats;
  request.kernels = options.kernels;
  request.memory_budget = options.memory_budget;
  request.working_set = working_set;
  if (!options.measure) request.measure_best = 0;
  return request;
}

/// Under a budget the plans depend on each other: all are made before the first weight is packed.
std::vector<Plan> plan_together(const Checkpoint& checkpoint, std::span<const WeightJob> jobs,
                                Planner& planner, const PlanRequest& request, Progress& progress) {
  std::vector<std::shared_ptr<const RowSource>> sources;
  std::vector<PlanJob> plan_jobs;
  for (const WeightJob& job : jobs) {
    sources.push_back(checkpoint.source(job.tensor));
    plan_jobs.push_back({.name = job.tensor, .weight = sources.back().get()});
  }
  return planner.plan_all(plan_jobs, request, progress);
}

/// A weight is mapped while it is packed, beside all that was packed before: the head, often larger
/// than a layer, had better not be the last.
std::vector<std::size_t> largest_first(std::span<const WeightJob> jobs) {
  std::vector<std::size_t> order(jobs.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return jobs[a].rows * jobs[a].cols > jobs[b].rows * jobs[b].cols;
  });
  return order;
}

}  // namespace

std::size_t dense_bytes(const Checkpoint& checkpoint, std::span<const WeightJob> jobs) {
  std::size_t bytes = 0;
  for (const WeightJob& job : jobs)
    bytes += static_cast<std::size_t>(job.rows * job.cols) *
             size_of(checkpoint.source(job.tensor)->dtype());
  return bytes;
}

void load_weights(const Checkpoint& checkpoint, std::span<const WeightJob> jobs, Planner& planner,
                  const LoadOptions& options, ThreadPool& pool) {
  Progress& progress = options.progress != nullptr ? *options.progress : no_progress();
  const PlanRequest request = request_of(options, dense_bytes(checkpoint, jobs));
  std::vector<Plan> plans;
  if (options.memory_budget != std::numeric_limits<std::size_t>::max())
    plans = plan_together(checkpoint, jobs, planner, request, progress);
  const auto total = static_cast<std::int64_t>(jobs.size());
  std::int64_t done = 0;
  for (const std::size_t i : largest_first(jobs)) {
    const WeightJob& job = jobs[i];
    progress.update("load", done++, total, job.tensor);
    auto weight = stage_weight(checkpoint, job.tensor, job.rows, job.cols, pool);
    const void* mapped = weight->dense_data();
    Plan plan = plans.empty() ? planner.plan(*weight, request) : std::move(plans[i]);
    const bool stays = plan.format == format::kDense && mapped != nullptr;
    job.projection->linear = make_linear(std::move(weight), std::move(plan), pool);
    if (!stays) checkpoint.drop_pages(job.tensor);
  }
  progress.update("load", total, total, "");
}

}  // namespace rarefy::model
