// From the winners at the workloads' n to a kernel for every n.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "planner/choose.h"
#include "planner/estimate.h"
#include "planner/search.h"

namespace rarefy::planning {
namespace {

/// Buckets of n: 1, 2, 3…4, 5…8, …, 257…512, 513…∞.
constexpr int kBuckets = 11;
constexpr std::int64_t kUnbounded = std::numeric_limits<std::int64_t>::max();
/// Stands for every n of the last bucket when asking what a kernel supports.
constexpr std::int64_t kVeryMany = std::int64_t{1} << 20;
/// Kernels whose scaled estimate is further off than this are not measured at a crossover.
constexpr double kWorthMeasuring = 2.0;
/// What is added to the estimate of a kernel that was never measured on this weight: it must
/// promise more than one that was.
constexpr double kUnproven = 1.25;

int bucket_of(std::int64_t n) {
  const auto before = static_cast<std::uint64_t>(std::max<std::int64_t>(n - 1, 0));
  return std::min(kBuckets - 1, static_cast<int>(std::bit_width(before)));
}
std::int64_t first_of(int bucket) {
  return bucket == 0 ? 1 : (std::int64_t{1} << (bucket - 1)) + 1;
}
std::int64_t last_of(int bucket) {
  return bucket == kBuckets - 1 ? kUnbounded : std::int64_t{1} << bucket;
}

/// What is known of one bucket.
struct Bucket {
  std::int64_t n = 0;  ///< Stands for the bucket; a workload's n where there is one.
  bool workload = false;
  const SpmmKernel* kernel = nullptr;
  double time_us = 0;
};

class StepMaker {
 public:
  StepMaker(const SearchInputs& inputs, std::span<const Entry> entries, const FormatSpec& format,
            TrialRunner* runner)
      : inputs_(inputs),
        entries_(entries),
        format_(format),
        runner_(runner),
        typical_scale_(typical_scale()) {
    for (int b = 0; b < kBuckets; ++b)
      buckets_[static_cast<std::size_t>(b)].n = std::min(last_of(b), std::int64_t{1024});
  }

  std::vector<PlanStep> make() {
    place_workloads();
    int previous = -1;
    for (int b = 0; b < kBuckets; ++b) {
      if (!at(b).workload) continue;
      if (previous >= 0) fill_between(previous, b);
      previous = b;
    }
    for (int b = 0; b < kBuckets; ++b) {
      if (at(b).kernel == nullptr) decide(b, false);
    }
    return merge();
  }

 private:
  Bucket& at(int bucket) { return buckets_[static_cast<std::size_t>(bucket)]; }

  void place_workloads() {
    double heaviest[kBuckets] = {};
    for (const Workload& workload : inputs_.request.workloads) {
      const int b = bucket_of(workload.n);
      const Entry* best = best_of(entries_, format_, workload.n);
      if (best == nullptr || (at(b).workload && workload.weight <= heaviest[b])) continue;
      heaviest[b] = workload.weight;
      at(b) = {workload.n, true, best->kernel, best->candidate.time_us()};
    }
  }

  /// Bisection: equal winners at both ends stay in between, others meet somewhere.
  void fill_between(int low, int high) {
    if (high - low < 2) return;
    if (at(low).kernel == at(high).kernel) {
      for (int b = low + 1; b < high; ++b) {
        if (supports(*at(low).kernel, b)) {
          at(b).kernel = at(low).kernel;
          at(b).time_us = scaled_estimate(*at(low).kernel, at(b).n);
        }
      }
      return;
    }
    const int middle = (low + high) / 2;
    decide(middle, true);
    if (at(middle).kernel == nullptr) return;
    fill_between(low, middle);
    fill_between(middle, high);
  }

  /// Gives a bucket its kernel: the lowest scaled estimate, or the fastest measured among those
  /// that come near it.
  void decide(int b, bool may_measure) {
    struct Option {
      const SpmmKernel* kernel;
      double us;
    };
    std::vector<Option> options;
    for (const SpmmKernel* kernel : inputs_.kernels) {
      if (supports(*kernel, b) && !outdone(*kernel, format_, problem_at(at(b).n), inputs_.kernels))
        options.push_back({kernel, scaled_estimate(*kernel, at(b).n)});
    }
    if (options.empty()) return;  // `Linear` then takes the default kernel.
    std::stable_sort(options.begin(), options.end(),
                     [](const Option& a, const Option& c) { return a.us < c.us; });
    Option best = options.front();
    std::erase_if(options, [&](const Option& o) { return o.us > kWorthMeasuring * best.us; });
    options.resize(std::min<std::size_t>(options.size(), 3));
    const bool time_left = runner_ != nullptr && inputs_.request.measure_best > 0 &&
                           runner_->elapsed_s() < inputs_.request.time_budget_s;
    if (may_measure && options.size() > 1 && time_left) {
      std::vector<Trial> trials;
      trials.reserve(options.size());
      for (const Option& option : options) trials.push_back({format_, option.kernel, at(b).n});
      const std::vector<Timing> timings = sample(*runner_, trials,
                                                 {.min_rounds = 3,
                                                  .max_rounds = 5,
                                                  .deadline_s = inputs_.request.time_budget_s,
                                                  .most_rounds = 5});
      double fastest = std::numeric_limits<double>::infinity();
      for (std::size_t i = 0; i < options.size(); ++i) {
        if (timings[i].samples == 0 || timings[i].median_us >= fastest) continue;
        fastest = timings[i].median_us;
        best = {options[i].kernel, fastest};
      }
    }
    at(b).kernel = best.kernel;
    at(b).time_us = best.us;
  }

  [[nodiscard]] SpmmProblem problem_at(std::int64_t n) const {
    return problem_for(inputs_.weight, inputs_.request, n, inputs_.threads);
  }

  [[nodiscard]] bool supports(const SpmmKernel& kernel, int bucket) const {
    for (std::int64_t n : {first_of(bucket), std::min(last_of(bucket), kVeryMany)}) {
      if (!kernel.supports(format_, problem_at(n))) return false;
    }
    return true;
  }

  [[nodiscard]] double estimate(const FormatSpec& format, const SpmmKernel& kernel,
                                std::int64_t n) const {
    return estimate_run(kernel, format, inputs_.pattern, problem_at(n), inputs_.ceilings,
                        stays_in_cache(inputs_.request.working_set), inputs_.scales);
  }

  /// Median of measured/estimated over what was measured on this weight: how far estimates are off
  /// on this machine as it is now, and kUnproven on top. No less than kUnproven; 1 when nothing was
  /// measured.
  [[nodiscard]] double typical_scale() const {
    std::vector<double> scales;
    for (const Entry& entry : entries_) {
      const Candidate& c = entry.candidate;
      if (c.measured_us > 0 && c.estimate_us > 0) scales.push_back(c.measured_us / c.estimate_us);
    }
    return scales.empty() ? 1.0 : std::max(1.0, median(scales)) * kUnproven;
  }

  /// The estimate times measured/estimated of the same kernel at the nearest n that was measured,
  /// or else of all that was measured.
  [[nodiscard]] double scaled_estimate(const SpmmKernel& kernel, std::int64_t n) const {
    double scale = typical_scale_;
    double nearest = std::numeric_limits<double>::infinity();
    for (const Entry& entry : entries_) {
      const Candidate& c = entry.candidate;
      if (entry.kernel != &kernel || c.format != format_ || c.measured_us <= 0) continue;
      const double distance =
          std::abs(std::log2(static_cast<double>(n) / static_cast<double>(c.n)));
      if (distance >= nearest) continue;
      nearest = distance;
      scale = c.measured_us / estimate(format_, kernel, c.n);
    }
    return scale * estimate(format_, kernel, n);
  }

  /// The best dense kernel at any n, scaled like the others.
  [[nodiscard]] double dense_us(std::int64_t n, bool workload) const {
    if (workload) return dense_time_us(entries_, n);
    double best = 0;
    std::vector<FormatSpec> seen;
    for (const Entry& entry : entries_) {
      const Candidate& c = entry.candidate;
      if (entry.kernel == nullptr || c.format.format != Format::kDense || c.estimate_us <= 0)
        continue;
      if (!entry.kernel->supports(c.format, problem_at(n))) continue;
      const double scale =
          c.measured_us > 0 ? c.measured_us / estimate(c.format, *entry.kernel, c.n) : 1.0;
      const double us = scale * estimate(c.format, *entry.kernel, n);
      if (best == 0 || us < best) best = us;
    }
    return best;
  }

  /// Neighbouring buckets with the same kernel become one step, but each workload keeps its own.
  std::vector<PlanStep> merge() {
    std::vector<PlanStep> steps;
    bool holds_workload = false;
    for (int b = 0; b < kBuckets; ++b) {
      const Bucket& bucket = at(b);
      const std::string name = bucket.kernel != nullptr ? std::string(bucket.kernel->name()) : "";
      const bool same = !steps.empty() && steps.back().kernel == name;
      if (same && !(holds_workload && bucket.workload)) {
        steps.back().n_max = last_of(b);
        if (!bucket.workload) continue;
      } else {
        steps.push_back({.n_min = first_of(b), .n_max = last_of(b), .kernel = name});
        holds_workload = false;
      }
      steps.back().time_us = bucket.time_us;
      steps.back().dense_us = dense_us(bucket.n, bucket.workload);
      holds_workload = holds_workload || bucket.workload;
    }
    return steps;
  }

  const SearchInputs& inputs_;
  std::span<const Entry> entries_;
  FormatSpec format_;
  TrialRunner* runner_;
  double typical_scale_;
  std::array<Bucket, kBuckets> buckets_{};
};

}  // namespace

std::vector<PlanStep> make_steps(const SearchInputs& inputs, std::span<const Entry> entries,
                                 const FormatSpec& format, TrialRunner* runner) {
  return StepMaker(inputs, entries, format, runner).make();
}

}  // namespace rarefy::planning
