#include "planner/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace rarefy::planning {
namespace {

/// Samples of one trial; `ratios` are paired with the reference of the same round.
struct Series {
  int slot = 0;  ///< Trials of the same format before it.
  std::vector<double> ratios, times;
  bool dropped = false;
};

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
  const std::size_t count = trials.size();
  std::vector<Series> series(count);
  if (count == 0) return {};
  for (std::size_t i = 0; i < count; ++i)
    series[i].slot = static_cast<int>(
        std::count_if(trials.begin(), trials.begin() + static_cast<std::ptrdiff_t>(i),
                      [&](const Trial& t) { return t.format == trials[i].format; }));

  // One unrecorded run each: page faults, lazily built tables and clocks that still ramp up.
  const double latest_s = std::max(options.deadline_s, options.latest_s);
  for (std::size_t i = 0; i < count; ++i) {
    if (runner.elapsed_s() > latest_s) break;
    runner.run(trials[i], series[i].slot);
  }
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(1);
  bool lead_in_noise = false;
  for (int round = 0; round < options.max_rounds; ++round) {
    const bool extend = round < options.min_rounds || lead_in_noise;
    if (runner.elapsed_s() > (extend ? latest_s : options.deadline_s)) break;
    runner.begin_round();
    std::vector<double> times(count, 0.0);
    // Another one first, and another one behind each: whatever follows dense finds its lines in the
    // caches' way and is up to 15 % slower.
    std::shuffle(order.begin(), order.end(), random);
    const auto first =
        std::find(order.begin(), order.end(), static_cast<std::size_t>(round) % count);
    std::rotate(order.begin(), first, order.end());
    for (const std::size_t i : order) {
      if (!series[i].dropped) times[i] = runner.run(trials[i], series[i].slot);
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (series[i].dropped) continue;
      series[i].times.push_back(times[i]);
      series[i].ratios.push_back(times[i] / std::max(times[0], 1e-6));
    }
    if (round + 1 < options.min_rounds) continue;

    // Retire what is clearly slower than the best; stop when nothing is left to decide.
    std::vector<double> medians(count, std::numeric_limits<double>::infinity());
    double best = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < count; ++i) {
      if (series[i].dropped) continue;
      medians[i] = median_of(series[i].ratios);
      if (medians[i] >= best) continue;
      best = medians[i];
      lead_in_noise = best <= 1 - options.worth_knowing &&
                      best * (1 + 2 * standard_error(series[i].ratios, best)) > 1;
    }
    std::size_t contenders = 0;
    double widest = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (series[i].dropped) continue;
      const double error = standard_error(series[i].ratios, medians[i]);
      if (i != 0 && medians[i] * (1 - 2 * error) > best * options.drop_ratio) {
        series[i].dropped = true;
        continue;
      }
      const bool could_win = medians[i] * (1 - 2 * error) <= best;
      if (!could_win) continue;
      ++contenders;
      widest = std::max(widest, error);
    }
    // One contender is decided; several whose medians are known to 1 % are as good as each other.
    if (round + 1 > options.min_rounds && (contenders <= 1 || widest < 0.01)) break;
  }

  const double reference = median_of(series[0].times);
  std::vector<Timing> timings(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (series[i].ratios.empty()) continue;
    const double middle = median_of(series[i].ratios);
    timings[i] = {.median_us = middle * reference,
                  .noise = i == 0 ? 0.0 : standard_error(series[i].ratios, middle),
                  .samples = static_cast<int>(series[i].ratios.size()),
                  .dropped = series[i].dropped};
  }
  return timings;
}

}  // namespace rarefy::planning
