// Many weights under one memory budget.
#include <algorithm>
#include <limits>
#include <optional>

#include "base/check.h"
#include "planner/choose.h"
#include "planner/planner_impl.h"
#include "planner/search.h"

namespace rarefy {
namespace {

/// A format that one weight could take instead: its bytes and its summed time over the workloads.
struct Alternative {
  FormatSpec format;
  double bytes = 0;
  double time_us = 0;  ///< Σ weight · time, not relative to dense: a large weight's loss is larger.
};

std::vector<Alternative> alternatives_of(const Plan& plan, const PlanRequest& request) {
  std::vector<Alternative> found;
  std::vector<planning::Entry> entries;
  for (const Candidate& c : plan.candidates) {
    if (c.estimate_us <= 0) continue;
    planning::Entry entry{.candidate = c, .kernel = find_spmm_kernel(c.kernel)};
    entry.candidate.reason.clear();
    entries.push_back(std::move(entry));
  }
  for (const planning::RankedFormat& ranked :
       planning::rank_formats(entries, PlanRequest{.workloads = request.workloads})) {
    Alternative a{.format = ranked.format};
    for (const Workload& workload : request.workloads) {
      const planning::Entry* best = planning::best_of(entries, ranked.format, workload.n);
      a.time_us += workload.weight * best->candidate.time_us();
      a.bytes = static_cast<double>(best->candidate.bytes);
    }
    found.push_back(a);
  }
  return found;
}

/// One weight during the greedy descent.
struct State {
  std::vector<Alternative> alternatives;
  std::size_t current = 0;
};

/// The switch of this weight that loses the least time for each byte saved; nullopt when it is at
/// its smallest already.
std::optional<std::pair<std::size_t, double>> best_switch(const State& state) {
  std::optional<std::pair<std::size_t, double>> best;
  const Alternative& now = state.alternatives[state.current];
  for (std::size_t i = 0; i < state.alternatives.size(); ++i) {
    const Alternative& other = state.alternatives[i];
    const double saved = now.bytes - other.bytes;
    if (saved <= 0) continue;
    const double price = (other.time_us - now.time_us) / saved;
    if (!best || price < best->second) best = {i, price};
  }
  return best;
}

}  // namespace

std::vector<Plan> Planner::plan_all(std::span<const PlanJob> jobs, const PlanRequest& request,
                                    Progress& progress) {
  const double budget = request.memory_budget == std::numeric_limits<std::size_t>::max()
                            ? std::numeric_limits<double>::infinity()
                            : static_cast<double>(request.memory_budget);
  PlanRequest alone = request;
  alone.memory_budget = std::numeric_limits<std::size_t>::max();

  std::vector<Plan> plans;
  std::vector<PatternStats> patterns(jobs.size());
  std::vector<State> states;
  double bytes = 0;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const PlanJob& job = jobs[i];
    require(job.weight != nullptr, "plan: {}: expected a weight, got null", job.name);
    progress.update("planning", static_cast<std::int64_t>(i),
                    static_cast<std::int64_t>(jobs.size()), job.name);
    patterns[i] = job.pattern != nullptr ? *job.pattern : pattern_stats(*job.weight, impl_->pool);
    plans.push_back(plan(*job.weight, patterns[i], alone));
    bytes += static_cast<double>(plans.back().bytes);
  }
  progress.update("planning", static_cast<std::int64_t>(jobs.size()),
                  static_cast<std::int64_t>(jobs.size()), "");
  if (bytes <= budget) return plans;

  for (const Plan& plan : plans) {
    State state{.alternatives = alternatives_of(plan, request)};
    const auto own = std::find_if(state.alternatives.begin(), state.alternatives.end(),
                                  [&](const Alternative& a) { return a.format == plan.format; });
    if (own == state.alternatives.end()) {
      fail(ErrorKind::kInternal, "plan: the chosen format {} is not among the candidates",
           plan.format.name());
    }
    state.current = static_cast<std::size_t>(own - state.alternatives.begin());
    states.push_back(std::move(state));
  }
  while (bytes > budget) {
    std::optional<std::size_t> weight;
    std::pair<std::size_t, double> cheapest{0, std::numeric_limits<double>::infinity()};
    for (std::size_t i = 0; i < states.size(); ++i) {
      const auto candidate = best_switch(states[i]);
      if (!candidate || candidate->second >= cheapest.second) continue;
      weight = i;
      cheapest = *candidate;
    }
    if (!weight) {
      fail(ErrorKind::kOutOfMemory,
           "plan: memory budget: expected room for {:.0f} bytes (the smallest formats of {} "
           "weights), got {} bytes",
           bytes, jobs.size(), request.memory_budget);
    }
    State& state = states[*weight];
    bytes -= state.alternatives[state.current].bytes - state.alternatives[cheapest.first].bytes;
    state.current = cheapest.first;
  }

  const std::scoped_lock lock(impl_->mutex);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const FormatSpec& format = states[i].alternatives[states[i].current].format;
    if (format == plans[i].format) continue;
    alone.formats = {format};
    const planning::SearchInputs inputs{*jobs[i].weight,
                                        patterns[i],
                                        alone,
                                        {},
                                        spmm_kernels(),
                                        impl_->get_ceilings(false),
                                        impl_->pool.size(),
                                        &impl_->get_scales()};
    plans[i] = planning::choose_again(inputs, plans[i]);
  }
  return plans;
}

}  // namespace rarefy
