#include "planner/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace rarefy::planning {
namespace {

/// One trial's times, one a pass; 0 where it had retired.
struct Series {
  int slot = 0;  ///< Trials of the same format before it.
  std::vector<double> times;
  bool dropped = false;
};

/// Time over the reference's, of every pass that ran both.
std::vector<double> paired(const Series& series, const Series& reference) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < series.times.size(); ++i) {
    if (series.times[i] > 0 && reference.times[i] > 0)
      ratios.push_back(series.times[i] / reference.times[i]);
  }
  return ratios;
}

/// Relative standard error of the median: 1.25 σ/√n with σ from the median absolute deviation,
/// which bursts of a neighbour on the machine do not move. Three samples or fewer say little: they
/// count as at least 5 % noise.
double standard_error(const std::vector<double>& ratios, double middle) {
  if (ratios.size() < 2 || middle <= 0) return 1.0;
  std::vector<double> deviations;
  deviations.reserve(ratios.size());
  for (double ratio : ratios) deviations.push_back(std::abs(ratio - middle));
  const double sigma = 1.4826 * median(deviations);
  const double error = 1.2533 * sigma / std::sqrt(static_cast<double>(ratios.size())) / middle;
  return ratios.size() <= 3 ? std::max(error, 0.05) : error;
}

double median_of(std::vector<double> values) {
  return median(values);
}

/// A trial beside the best reference.
struct Standing {
  double ratio = std::numeric_limits<double>::infinity();
  double error = 0;  ///< Of `ratio`, relative.
};

class Sampler {
 public:
  Sampler(TrialRunner& runner, std::span<const Trial> trials, const SamplingOptions& options)
      : runner_(runner), trials_(trials), options_(options), series_(trials.size()) {
    for (std::size_t i = 0; i < trials.size(); ++i)
      series_[i].slot = static_cast<int>(
          std::count_if(trials.begin(), trials.begin() + static_cast<std::ptrdiff_t>(i),
                        [&](const Trial& t) { return t.format == trials[i].format; }));
    order_.resize(trials.size());
    std::iota(order_.begin(), order_.end(), 0);
  }

  void run() {
    // One unrecorded run each: page faults, lazily built tables and clocks that still ramp up.
    const double latest_s = std::max(options_.deadline_s, options_.latest_s);
    for (std::size_t i = 0; i < trials_.size(); ++i) {
      if (runner_.elapsed_s() > latest_s) break;
      runner_.run(trials_[i], series_[i].slot, 0);
    }
    for (int round = 0; undecided_ || round < options_.max_rounds; ++round) {
      const bool extend = round < options_.min_rounds || undecided_;
      if (runner_.elapsed_s() > (extend ? latest_s : options_.deadline_s)) break;
      if (round >= std::max(options_.max_rounds, options_.most_rounds)) break;
      const int passes = runner_.begin_round();
      for (int pass = 0; pass < passes; ++pass) run_pass(pass);
      if (round + 1 < options_.min_rounds) continue;
      // Several contenders that are known to 1 % are as good as each other.
      const bool decided = judge();
      if (round + 1 > options_.min_rounds && decided) break;
    }
  }

  [[nodiscard]] std::vector<Timing> timings() {
    find_base();
    const double base_us = median_of(sampled(series_[base_]));
    std::vector<Timing> timings(series_.size());
    for (std::size_t i = 0; i < series_.size(); ++i) {
      const std::vector<double> ratios = paired(series_[i], series_[base_]);
      if (ratios.empty()) continue;
      const double middle = median_of(ratios);
      timings[i] = {.median_us = middle * base_us,
                    .noise = i == base_ ? 0.0 : standard_error(ratios, middle),
                    .samples = static_cast<int>(ratios.size()),
                    .dropped = series_[i].dropped};
    }
    return timings;
  }

 private:
  static std::vector<double> sampled(const Series& series) {
    std::vector<double> times = series.times;
    std::erase(times, 0.0);
    return times;
  }

  void run_pass(int pass) {
    // Another one first, and another one behind each: whatever follows dense finds its lines in the
    // caches' way and is up to 15 % slower.
    std::shuffle(order_.begin(), order_.end(), random_);
    const auto first = std::find(order_.begin(), order_.end(), passes_++ % order_.size());
    std::rotate(order_.begin(), first, order_.end());
    for (const std::size_t i : order_) {
      Series& s = series_[i];
      s.times.push_back(s.dropped ? 0.0
                                  : std::max(runner_.run(trials_[i], s.slot, pass), kLeastUs));
    }
  }

  /// The reference that none of the others is faster than.
  void find_base() {
    for (std::size_t i = 0; i < std::min(options_.references, series_.size()); ++i) {
      if (i == base_ || series_[i].dropped) continue;
      const std::vector<double> ratios = paired(series_[i], series_[base_]);
      if (!ratios.empty() && median_of(ratios) < 1) base_ = i;
    }
  }

  /// Whether a lead that is worth knowing is seen but not sure, or may hide where nothing is seen.
  [[nodiscard]] bool may_lead(const Standing& s) const {
    const double enough = 1 - options_.worth_knowing;
    const bool sure = s.ratio * (1 + 2 * s.error) <= 1 + options_.worth_knowing;
    const bool blind = s.error > kBlind && s.ratio <= 1 + options_.worth_knowing &&
                       s.ratio * (1 - 2 * s.error) <= enough;
    return !sure && (s.ratio <= enough || blind);
  }

  /// Retires what is clearly slower than the best; true when nothing is left to decide.
  bool judge() {
    find_base();
    std::vector<Standing> standings(series_.size());
    double best = 1;
    double best_error = 0;
    undecided_ = false;
    for (std::size_t i = 0; i < series_.size(); ++i) {
      if (series_[i].dropped) continue;
      const std::vector<double> ratios = paired(series_[i], series_[base_]);
      Standing& s = standings[i];
      s.ratio = median_of(ratios);
      s.error = i == base_ ? 0.0 : standard_error(ratios, s.ratio);
      if (s.ratio >= best) continue;
      best = s.ratio;
      best_error = s.error;
    }
    for (std::size_t i = options_.references; i < series_.size(); ++i)
      undecided_ = undecided_ || (standings[i].ratio <= best * kRival && may_lead(standings[i]));
    std::size_t contenders = 0;
    double widest = 0;
    for (std::size_t i = 0; i < series_.size(); ++i) {
      if (series_[i].dropped) continue;
      const Standing& s = standings[i];
      series_[i].dropped = i != base_ && s.ratio * (1 - 2 * s.error) > best * options_.drop_ratio;
      const double lag_error = std::hypot(s.ratio * s.error, best * best_error);
      if (s.ratio - best > 2 * lag_error) continue;
      ++contenders;
      widest = std::max(widest, s.error);
    }
    return (contenders <= 1 || widest < 0.01) && !undecided_;
  }

  static constexpr double kLeastUs = 1e-6;  ///< 0 stands for none.
  /// A standard error behind which a lead of three times worth_knowing may hide.
  static constexpr double kBlind = 0.03;
  /// Whether something this much slower than the best leads changes nothing.
  static constexpr double kRival = 1.05;

  TrialRunner& runner_;
  std::span<const Trial> trials_;
  const SamplingOptions& options_;
  std::vector<Series> series_;
  std::vector<std::size_t> order_;
  std::mt19937 random_{1};
  std::size_t passes_ = 0;
  std::size_t base_ = 0;
  bool undecided_ = false;
};

}  // namespace

double median(std::span<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

std::vector<Timing> sample(TrialRunner& runner, std::span<const Trial> trials,
                           const SamplingOptions& options) {
  if (trials.empty()) return {};
  Sampler sampler(runner, trials, options);
  sampler.run();
  return sampler.timings();
}

}  // namespace rarefy::planning
