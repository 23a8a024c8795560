// A plan in words, for people.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "rarefy/planner.h"

namespace rarefy {
namespace {

std::string range_of(const PlanStep& step) {
  if (step.n_max == std::numeric_limits<std::int64_t>::max())
    return fmt::format("n >= {}", step.n_min);
  if (step.n_max == step.n_min) return fmt::format("n = {}", step.n_min);
  return fmt::format("n = {} to {}", step.n_min, step.n_max);
}

/// chosen, measured, estimated, rejected.
int rank(const Candidate& c) {
  if (c.chosen) return 0;
  if (c.measured_us > 0) return 1;
  return c.estimate_us > 0 ? 2 : 3;
}

std::string microseconds(double us) {
  return us > 0 ? fmt::format("{:.1f}", us) : "-";
}

}  // namespace

std::string describe(const Plan& plan) {
  std::string text = fmt::format(
      "plan: {}{}, {:.2f} MB ({:.0f} % of dense)\n", plan.format.name(),
      plan.from_cache ? " (from the plan cache)" : "", static_cast<double>(plan.bytes) / 1e6,
      plan.dense_bytes > 0
          ? 100.0 * static_cast<double>(plan.bytes) / static_cast<double>(plan.dense_bytes)
          : 100.0);
  for (const PlanStep& step : plan.steps) {
    text += fmt::format("  {:<16} {:<28} {:>10} us", range_of(step),
                        step.kernel.empty() ? "(default kernel)" : step.kernel,
                        microseconds(step.time_us));
    if (step.dense_us > 0 && step.time_us > 0)
      text += fmt::format(", dense {} us ({:.2f}x)", microseconds(step.dense_us),
                          step.dense_us / step.time_us);
    text += '\n';
  }

  std::vector<const Candidate*> order;
  for (const Candidate& c : plan.candidates) order.push_back(&c);
  std::stable_sort(order.begin(), order.end(), [](const Candidate* a, const Candidate* b) {
    if (a->n != b->n) return a->n < b->n;
    if (rank(*a) != rank(*b)) return rank(*a) < rank(*b);
    return a->time_us() < b->time_us();
  });
  text += fmt::format("  {:>6} {:<12} {:<28} {:>9} {:>11} {:>11}  {}\n", "n", "format", "kernel",
                      "MB", "estimate us", "measured us", "fate");
  for (const Candidate* c : order) {
    text += fmt::format("  {:>6} {:<12} {:<28} {:>9.2f} {:>11} {:>11}  {}\n", c->n,
                        c->format.name(), c->kernel.empty() ? "-" : c->kernel,
                        static_cast<double>(c->bytes) / 1e6, microseconds(c->estimate_us),
                        microseconds(c->measured_us), c->chosen ? "chosen" : c->reason);
  }
  return text;
}

}  // namespace rarefy
