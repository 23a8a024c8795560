#include "planner/search.h"

#include <algorithm>
#include <map>

#include "base/check.h"
#include "planner/choose.h"

namespace rarefy::planning {
namespace {

/// A second kernel of a format is measured too when its estimate is this close to the first.
constexpr double kCloseKernels = 1.5;
/// Candidates whose estimate is this many times dense's are not worth a measurement.
constexpr double kHopeless = 3.0;

bool is_dense(const FormatSpec& format) {
  return format.format == Format::kDense;
}

std::vector<std::int64_t> distinct_ns(const PlanRequest& request) {
  std::vector<Workload> workloads = request.workloads;
  std::stable_sort(workloads.begin(), workloads.end(),
                   [](const Workload& a, const Workload& b) { return a.weight > b.weight; });
  std::vector<std::int64_t> ns;
  for (const Workload& workload : workloads) {
    if (std::find(ns.begin(), ns.end(), workload.n) == ns.end()) ns.push_back(workload.n);
  }
  return ns;
}

/// The entries to measure at each n: dense first (the reference), then the best formats by the
/// estimated objective, until every n has `measure_best` pairs.
std::map<std::int64_t, std::vector<Entry*>> finalists(std::vector<Entry>& entries,
                                                      const PlanRequest& request) {
  std::map<std::int64_t, std::vector<Entry*>> chosen;
  const std::vector<std::int64_t> ns = distinct_ns(request);
  const auto kernels_at = [&](const FormatSpec& format, std::int64_t n) {
    std::vector<Entry*> found;
    for (Entry& entry : entries) {
      if (entry.possible() && entry.candidate.format == format && entry.candidate.n == n)
        found.push_back(&entry);
    }
    std::stable_sort(found.begin(), found.end(), [](const Entry* a, const Entry* b) {
      return a->candidate.estimate_us < b->candidate.estimate_us;
    });
    return found;
  };
  const auto add = [&](const FormatSpec& format) {
    for (std::int64_t n : ns) {
      const std::vector<Entry*> found = kernels_at(format, n);
      for (std::size_t i = 0; i < std::min<std::size_t>(found.size(), 2); ++i) {
        const double estimate = found[i]->candidate.estimate_us;
        if (i == 0 || estimate < kCloseKernels * found[0]->candidate.estimate_us)
          chosen[n].push_back(found[i]);
      }
    }
  };

  const std::vector<RankedFormat> ranked = rank_formats(entries, request);
  for (const RankedFormat& r : ranked) {
    if (is_dense(r.format)) add(r.format);
  }
  std::map<std::int64_t, std::size_t> dense_pairs;
  for (std::int64_t n : ns) dense_pairs[n] = chosen[n].size();
  for (const RankedFormat& r : ranked) {
    const bool enough = std::all_of(ns.begin(), ns.end(), [&](std::int64_t n) {
      return chosen[n].size() - dense_pairs[n] >= static_cast<std::size_t>(request.measure_best);
    });
    if (enough) break;
    if (!is_dense(r.format) && r.score < kHopeless) add(r.format);
  }
  return chosen;
}

/// Packs every finalist's format; one that turns out not to fit drops out with its reason.
void prepare_formats(std::vector<Entry>& entries,
                     std::map<std::int64_t, std::vector<Entry*>>& chosen, TrialRunner& runner) {
  std::vector<FormatSpec> tried;
  for (auto& [n, list] : chosen) {
    for (Entry* entry : list) {
      const FormatSpec format = entry->candidate.format;
      if (std::find(tried.begin(), tried.end(), format) != tried.end()) continue;
      tried.push_back(format);
      std::string problem;
      std::size_t bytes = 0;
      try {
        bytes = runner.prepare(format);
      } catch (const Error& error) {
        problem = error.what();
      }
      for (Entry& other : entries) {
        if (!other.possible() || other.candidate.format != format) continue;
        if (problem.empty()) other.candidate.bytes = bytes;
        other.candidate.reason = problem;
      }
    }
  }
  for (auto& [n, list] : chosen) std::erase_if(list, [](Entry* e) { return !e->possible(); });
}

/// Measures the finalists; returns false when the time ended first.
bool measure(std::vector<Entry>& entries, const PlanRequest& request, TrialRunner& runner) {
  auto chosen = finalists(entries, request);
  prepare_formats(entries, chosen, runner);
  bool complete = true;
  const std::vector<std::int64_t> ns = distinct_ns(request);
  for (std::size_t i = 0; i < ns.size(); ++i) {
    const std::vector<Entry*>& list = chosen[ns[i]];
    std::vector<Trial> trials;
    trials.reserve(list.size());
    for (const Entry* entry : list)
      trials.push_back({entry->candidate.format, entry->kernel, entry->candidate.n});
    // What is left of the time is shared equally; a fifth of it is kept for the crossovers.
    const double now = runner.elapsed_s();
    const double left = std::max(0.0, 0.8 * request.time_budget_s - now);
    const double share = left / static_cast<double>(ns.size() - i);
    const auto references = std::count_if(list.begin(), list.end(), [](const Entry* entry) {
      return is_dense(entry->candidate.format);
    });
    const SamplingOptions options{.references = static_cast<std::size_t>(references),
                                  .deadline_s = now + share,
                                  .latest_s = now + share + request.time_budget_s};
    const std::vector<Timing> timings = sample(runner, trials, options);
    for (std::size_t t = 0; t < list.size(); ++t) {
      list[t]->candidate.measured_us = timings[t].median_us;
      list[t]->candidate.noise = timings[t].noise;
      const bool enough = timings[t].dropped || timings[t].samples >= options.min_rounds;
      complete = complete && enough;
    }
  }
  return complete;
}

Plan plan_from(const SearchInputs& inputs, std::vector<Entry>& entries, TrialRunner* runner) {
  const std::optional<FormatSpec> format = choose_format(entries, inputs.request);
  if (!format) {
    std::size_t smallest = std::numeric_limits<std::size_t>::max();
    std::string name = "none";
    for (const Entry& entry : entries) {
      if (!entry.possible() || entry.candidate.bytes >= smallest) continue;
      smallest = entry.candidate.bytes;
      name = entry.candidate.format.name();
    }
    fail(ErrorKind::kOutOfMemory,
         "plan: memory budget: expected room for {} bytes (the smallest format, {}), got {} bytes",
         smallest, name, inputs.request.memory_budget);
  }
  Plan plan;
  plan.format = *format;
  plan.dense_bytes = estimate_packed_bytes(format::kDense, inputs.pattern, inputs.weight.dtype());
  for (const Entry& entry : entries) {
    if (entry.candidate.chosen) plan.bytes = entry.candidate.bytes;
  }
  plan.rows = inputs.pattern.rows;
  plan.cols = inputs.pattern.cols;
  plan.nnz = inputs.pattern.nnz;
  plan.steps = make_steps(inputs, entries, *format, runner);
  for (Entry& entry : entries) plan.candidates.push_back(entry.candidate);
  return plan;
}

}  // namespace

SearchResult search(const SearchInputs& inputs, TrialRunner* runner) {
  std::vector<Entry> entries =
      enumerate_candidates(inputs.weight, inputs.pattern, inputs.nm_formats, inputs.request,
                           inputs.kernels, inputs.ceilings, inputs.threads, inputs.scales);
  SearchResult result;
  const bool empty = inputs.weight.rows() == 0 || inputs.weight.cols() == 0;
  if (runner != nullptr && inputs.request.measure_best > 0 && !empty)
    result.complete = measure(entries, inputs.request, *runner);
  result.plan = plan_from(inputs, entries, runner);
  return result;
}

Plan choose_again(const SearchInputs& inputs, const Plan& plan) {
  std::vector<Entry> entries;
  const auto& allowed = inputs.request.formats;
  for (const Candidate& candidate : plan.candidates) {
    Entry entry{.candidate = candidate};
    const auto kernel =
        std::find_if(inputs.kernels.begin(), inputs.kernels.end(),
                     [&](const SpmmKernel* k) { return k->name() == candidate.kernel; });
    if (kernel != inputs.kernels.end()) entry.kernel = *kernel;
    // What was never estimated was impossible, and stays so; the rest competes afresh.
    if (candidate.estimate_us > 0) entry.candidate.reason.clear();
    if (!allowed.empty() &&
        std::find(allowed.begin(), allowed.end(), candidate.format) == allowed.end())
      entry.candidate.reason = "does not fit the budget of all weights together";
    entry.candidate.chosen = false;
    entries.push_back(std::move(entry));
  }
  return plan_from(inputs, entries, nullptr);
}

}  // namespace rarefy::planning
