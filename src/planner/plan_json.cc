#include "planner/plan_json.h"

#include "base/check.h"

namespace rarefy::planning {
namespace {

FormatSpec format_from(const Json& json) {
  const auto name = json.get<std::string>();
  const std::optional<FormatSpec> format = FormatSpec::parse(name);
  if (!format) fail(ErrorKind::kCorrupt, "plan: expected a format, got '{}'", name);
  return *format;
}

double non_negative(const Json& json) {
  const auto value = json.get<double>();
  if (!(value >= 0)) fail(ErrorKind::kCorrupt, "plan: expected a time, got {}", value);
  return value;
}

void check_steps(const std::vector<PlanStep>& steps) {
  std::int64_t next = 1;
  for (const PlanStep& step : steps) {
    if (step.n_min != next || step.n_max < step.n_min)
      fail(ErrorKind::kCorrupt, "plan: expected a step from n = {}, got {} to {}", next, step.n_min,
           step.n_max);
    next = step.n_max < std::numeric_limits<std::int64_t>::max() ? step.n_max + 1 : 0;
  }
  if (next != 0) fail(ErrorKind::kCorrupt, "plan: expected steps for every n");
}

}  // namespace

Json plan_to_json(const Plan& plan) {
  Json steps = Json::array();
  for (const PlanStep& s : plan.steps) {
    steps.push_back({{"n_min", s.n_min},
                     {"n_max", s.n_max},
                     {"kernel", s.kernel},
                     {"time_us", s.time_us},
                     {"dense_us", s.dense_us}});
  }
  Json candidates = Json::array();
  for (const Candidate& c : plan.candidates) {
    candidates.push_back({{"format", c.format.name()},
                          {"kernel", c.kernel},
                          {"n", c.n},
                          {"bytes", c.bytes},
                          {"estimate_us", c.estimate_us},
                          {"measured_us", c.measured_us},
                          {"noise", c.noise},
                          {"chosen", c.chosen},
                          {"reason", c.reason}});
  }
  return {{"format", plan.format.name()},
          {"bytes", plan.bytes},
          {"dense_bytes", plan.dense_bytes},
          {"steps", std::move(steps)},
          {"candidates", std::move(candidates)}};
}

Plan plan_from_json(const Json& json) {
  Plan plan;
  plan.format = format_from(json.at("format"));
  plan.bytes = json.at("bytes").get<std::size_t>();
  plan.dense_bytes = json.at("dense_bytes").get<std::size_t>();
  for (const Json& s : json.at("steps")) {
    plan.steps.push_back({.n_min = s.at("n_min").get<std::int64_t>(),
                          .n_max = s.at("n_max").get<std::int64_t>(),
                          .kernel = s.at("kernel").get<std::string>(),
                          .time_us = non_negative(s.at("time_us")),
                          .dense_us = non_negative(s.at("dense_us"))});
  }
  check_steps(plan.steps);
  for (const Json& c : json.at("candidates")) {
    plan.candidates.push_back({.format = format_from(c.at("format")),
                               .kernel = c.at("kernel").get<std::string>(),
                               .n = c.at("n").get<std::int64_t>(),
                               .bytes = c.at("bytes").get<std::size_t>(),
                               .estimate_us = non_negative(c.at("estimate_us")),
                               .measured_us = non_negative(c.at("measured_us")),
                               .noise = non_negative(c.at("noise")),
                               .chosen = c.at("chosen").get<bool>(),
                               .reason = c.at("reason").get<std::string>()});
  }
  return plan;
}

}  // namespace rarefy::planning
