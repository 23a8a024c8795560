#include "cli/plan_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cli/terminal.h"

namespace rarefy::cli {
namespace {

std::string range_of(const PlanStep& step) {
  if (step.n_max == std::numeric_limits<std::int64_t>::max()) return fmt::format("{}+", step.n_min);
  return step.n_min == step.n_max ? fmt::format("{}", step.n_min)
                                  : fmt::format("{}-{}", step.n_min, step.n_max);
}

/// Whether a candidate was measured at an N of this step: the others are bisected from estimates.
bool was_measured(const Plan& plan, const PlanStep& step) {
  return std::any_of(plan.candidates.begin(), plan.candidates.end(), [&](const Candidate& c) {
    return c.measured_us > 0 && c.n >= step.n_min && c.n <= step.n_max;
  });
}

std::string time_or_dash(double us) {
  return us > 0 ? human_time_us(us) : "-";
}

}  // namespace

OrderedJson plans_as_json(const Model& model) {
  OrderedJson list = OrderedJson::array();
  for (const DeviceWeight& weight : model.device_weights()) {
    list.push_back({{"name", weight.name},
                    {"shape", {weight.rows, weight.cols}},
                    {"kernel", weight.kernel},
                    {"bytes", weight.bytes},
                    {"many_from", weight.many_from},
                    {"time_us", weight.time_us}});
  }
  for (const ModelWeight& weight : model.weights()) {
    const Plan& plan = weight.linear->plan();
    const Matrix& matrix = weight.linear->matrix();
    OrderedJson steps = OrderedJson::array();
    for (const PlanStep& step : plan.steps) {
      OrderedJson item{{"n_min", step.n_min},
                       {"n_max", nullptr},
                       {"kernel", step.kernel},
                       {"time_us", step.time_us},
                       {"dense_us", step.dense_us}};
      if (step.n_max != std::numeric_limits<std::int64_t>::max()) item["n_max"] = step.n_max;
      steps.push_back(std::move(item));
    }
    list.push_back({{"name", weight.name},
                    {"shape", {matrix.rows(), matrix.cols()}},
                    {"density", matrix.density()},
                    {"format", plan.format.name()},
                    {"bytes", matrix.bytes()},
                    {"dense_bytes", plan.dense_bytes},
                    {"from_cache", plan.from_cache},
                    {"steps", std::move(steps)}});
  }
  return list;
}

OrderedJson candidates_as_json(const Plan& plan) {
  OrderedJson list = OrderedJson::array();
  for (const Candidate& c : plan.candidates) {
    list.push_back({{"n", c.n},
                    {"format", c.format.name()},
                    {"kernel", c.kernel},
                    {"bytes", c.bytes},
                    {"estimate_us", c.estimate_us},
                    {"measured_us", c.measured_us},
                    {"chosen", c.chosen},
                    {"reason", c.reason}});
  }
  return list;
}

namespace {

std::string device_weights_as_table(const Model& model) {
  Table table({"weight", "shape", "kernel", "time", "bytes"});
  for (const DeviceWeight& weight : model.device_weights()) {
    table.add({weight.name, fmt::format("{}x{}", weight.rows, weight.cols), weight.kernel,
               time_or_dash(weight.time_us), human_bytes(static_cast<double>(weight.bytes))});
  }
  return table.text();
}

}  // namespace

std::string plans_as_table(const Model& model) {
  if (!model.gpu().empty()) return device_weights_as_table(model);
  Table table({"weight", "shape", "density", "format", "N", "kernel", "time", "dense", "speed-up",
               "bytes/dense"});
  for (const ModelWeight& weight : model.weights()) {
    const Plan& plan = weight.linear->plan();
    const Matrix& matrix = weight.linear->matrix();
    bool first = true;
    const bool any_measured =
        std::any_of(plan.steps.begin(), plan.steps.end(),
                    [&](const PlanStep& step) { return was_measured(plan, step); });
    for (const PlanStep& step : plan.steps) {
      if (any_measured && !was_measured(plan, step)) continue;
      std::vector<std::string> row{
          first ? weight.name : "",
          first ? fmt::format("{}x{}", matrix.rows(), matrix.cols()) : "",
          first ? percent(matrix.density()) : "",
          first ? plan.format.name() : "",
          range_of(step),
          step.kernel,
          time_or_dash(step.time_us),
          time_or_dash(step.dense_us),
          step.time_us > 0 && step.dense_us > 0
              ? fmt::format("{:.2f}x", step.dense_us / step.time_us)
              : "-",
          first && plan.dense_bytes > 0
              ? fmt::format("{:.2f}", static_cast<double>(matrix.bytes()) /
                                          static_cast<double>(plan.dense_bytes))
              : ""};
      table.add(std::move(row));
      first = false;
    }
  }
  return table.text();
}

namespace {

/// Reasons that several candidates share, in the order of the first, and who has them.
std::string reasons_as_list(const std::vector<const Candidate*>& rejected) {
  std::vector<std::pair<std::string, std::vector<std::string>>> groups;
  for (const Candidate* c : rejected) {
    // "stores more than dense: 4 bytes against 2": the figures differ, the reason does not.
    const std::string reason = c->reason.substr(0, c->reason.find(": "));
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const auto& g) { return g.first == reason; });
    if (group == groups.end()) group = groups.insert(groups.end(), {reason, {}});
    std::string name = c->kernel.empty() ? c->format.name() : c->kernel;
    std::vector<std::string>& names = group->second;
    if (std::find(names.begin(), names.end(), name) == names.end())
      names.push_back(std::move(name));
  }
  std::string text;
  for (const auto& [reason, names] : groups)
    text += fmt::format("  {}: {}\n", reason, fmt::join(names, ", "));
  return text;
}

}  // namespace

std::string candidates_as_table(const Plan& plan) {
  std::vector<const Candidate*> competed;
  std::vector<const Candidate*> rejected;
  for (const Candidate& c : plan.candidates)
    (c.chosen || c.time_us() > 0 ? competed : rejected).push_back(&c);
  const auto rank = [](const Candidate* c) { return c->chosen ? 0 : c->measured_us > 0 ? 1 : 2; };
  std::stable_sort(competed.begin(), competed.end(), [&](const Candidate* a, const Candidate* b) {
    return std::tuple(a->n, rank(a), a->time_us()) < std::tuple(b->n, rank(b), b->time_us());
  });
  Table table({"N", "format", "kernel", "size", "estimate", "measured", "verdict"});
  for (const Candidate* c : competed) {
    table.add({fmt::format("{}", c->n), c->format.name(), c->kernel,
               human_bytes(static_cast<double>(c->bytes)), time_or_dash(c->estimate_us),
               time_or_dash(c->measured_us), c->chosen ? "chosen" : c->reason});
  }
  std::string text = table.text();
  if (!rejected.empty()) text += "out from the start:\n" + reasons_as_list(rejected);
  return text;
}

}  // namespace rarefy::cli
