#include "cuda/timing.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace rarefy::cuda {
namespace {

constexpr int kLeastReplays = 3;

/// How many calls may lie in a graph for its least replays to fit into the budget.
int calls_within_budget(const Stream& stream, const std::function<void(int copy)>& enqueue,
                        double budget_us) {
  const Graph graph(stream, [&] { enqueue(0); });
  graph.launch(stream);  // Loads and warms.
  const Event begin(stream.device());
  const Event end(stream.device());
  begin.record(stream);
  graph.launch(stream);
  end.record(stream);
  end.synchronize();
  const double us = std::max(end.microseconds_since(begin), 1.0);
  return static_cast<int>(std::clamp(budget_us / kLeastReplays / us, 1.0, 1e6));
}

}  // namespace

Timing time_calls(const Stream& stream, const std::function<void(int copy)>& enqueue,
                  const TimingOptions& options) {
  const int rounds = std::max(1, (options.calls + options.copies - 1) / options.copies);
  int calls = rounds * options.copies;
  constexpr int kFew = 5;
  if (calls > kFew)
    calls =
        std::min(calls, std::max(calls_within_budget(stream, enqueue, options.budget_us), kFew));
  const Graph graph(stream, [&] {
    for (int i = 0; i < calls; ++i) enqueue(i % options.copies);
  });
  graph.launch(stream);
  stream.synchronize();

  const Event begin(stream.device());
  const Event end(stream.device());
  std::vector<double> times;
  double total = 0;
  for (int i = 0; i < options.replays; ++i) {
    begin.record(stream);
    graph.launch(stream);
    end.record(stream);
    end.synchronize();
    const double us = end.microseconds_since(begin);
    times.push_back(us / calls);
    total += us;
    if (total > options.budget_us && i + 1 >= kLeastReplays) break;
  }
  std::sort(times.begin(), times.end());
  Timing timing;
  timing.replays = static_cast<int>(times.size());
  timing.median_us = times[times.size() / 2];
  timing.least_us = times.front();
  timing.most_us = times.back();
  // The interquartile range of a normal distribution is 1.35 deviations; a median's standard error
  // is 1.25 times a mean's.
  const double spread = times[times.size() * 3 / 4] - times[times.size() / 4];
  timing.noise = spread / 1.35 * 1.25 / std::sqrt(static_cast<double>(times.size())) /
                 std::max(timing.median_us, 1e-3);
  return timing;
}

int rotating_copies(std::size_t bytes, std::size_t span) {
  constexpr std::size_t kMost = 64;
  const std::size_t needed = span / std::max<std::size_t>(bytes, 1) + 1;
  return static_cast<int>(std::clamp<std::size_t>(needed, 1, kMost));
}

}  // namespace rarefy::cuda
