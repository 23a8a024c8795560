// Plans: which format and kernel for a weight on this machine, and why.
#include "rarefy/planner.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <map>

#include "arguments.h"
#include "bindings.h"
#include "rarefy/spmm.h"
#include "source.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace rarefy::python {
namespace {

/// What a plan is made for, as keyword arguments.
struct Wishes {
  std::map<std::int64_t, double> tokens;
  std::string activations, output, precision;
  std::vector<std::string> formats, kernels;
  std::optional<std::size_t> memory_budget;
  bool measure;
  double time_budget_s;
};

PlanRequest request_of(const Wishes& wishes) {
  PlanRequest request;
  request.workloads.clear();
  for (const auto& [n, weight] : wishes.tokens) {
    require(n >= 1 && std::isfinite(weight) && weight > 0,
            "tokens: expected counts of at least 1 with weights above 0, got {}: {}", n, weight);
    request.workloads.push_back({n, weight});
  }
  request.activations = dtype_argument(wishes.activations, "activations");
  request.output = dtype_argument(wishes.output, "output");
  request.precision = precision_argument(wishes.precision);
  for (const std::string& format : wishes.formats)
    request.formats.push_back(format_argument(format));
  for (const std::string& kernel : wishes.kernels)
    require(find_spmm_kernel(kernel) != nullptr,
            "kernels: expected names of spmm_kernels(), got '{}'", kernel);
  request.kernels = wishes.kernels;
  if (wishes.memory_budget) request.memory_budget = *wishes.memory_budget;
  if (!wishes.measure) request.measure_best = 0;
  require(std::isfinite(wishes.time_budget_s) && wishes.time_budget_s >= 0,
          "time_budget_s: expected at least 0, got {}", wishes.time_budget_s);
  request.time_budget_s = wishes.time_budget_s;
  return request;
}

Planner::Options options_of(const std::optional<std::filesystem::path>& cache_dir, bool cache) {
  return {.cache_dir = cache_dir.value_or(std::filesystem::path()), .use_cache = cache};
}

std::vector<Plan> plan_all(const std::vector<std::pair<std::string, ArrayArgument>>& weights,
                           const Wishes& wishes,
                           const std::optional<std::filesystem::path>& cache_dir, bool cache) {
  const PlanRequest request = request_of(wishes);
  std::vector<SourceArgument> sources;
  sources.reserve(weights.size());
  std::vector<PlanJob> jobs;
  for (const auto& [name, weight] : weights) {
    sources.emplace_back(weight, name.c_str());
    jobs.push_back({.name = name, .weight = &*sources.back()});
  }
  const nb::gil_scoped_release unlocked;
  Planner planner(options_of(cache_dir, cache));
  return planner.plan_all(jobs, request);
}

Plan plan_one(const ArrayArgument& weight, const Wishes& wishes,
              const std::optional<std::filesystem::path>& cache_dir, bool cache) {
  const PlanRequest request = request_of(wishes);
  const SourceArgument source(weight, "weight");
  const nb::gil_scoped_release unlocked;
  Planner planner(options_of(cache_dir, cache));
  return planner.plan(*source, request);
}

}  // namespace

void bind_planner(nb::module_& module) {
  nb::class_<Candidate>(module, "Candidate",
                        "A format and a kernel that were looked at for one number of tokens.")
      .def_prop_ro("format", [](const Candidate& self) { return self.format.name(); })
      .def_ro("kernel", &Candidate::kernel)
      .def_ro("tokens", &Candidate::n)
      .def_ro("nbytes", &Candidate::bytes, "Of the packed weight; estimated until packed.")
      .def_ro("estimate_us", &Candidate::estimate_us, "0 when rejected before.")
      .def_ro("measured_us", &Candidate::measured_us, "0 when not measured.")
      .def_ro("noise", &Candidate::noise, "Relative standard error of measured_us.")
      .def_ro("chosen", &Candidate::chosen)
      .def_ro("reason", &Candidate::reason, "Why it was rejected; empty when chosen.");
  nb::class_<PlanStep>(module, "PlanStep", "The kernel of a plan for a range of tokens.")
      .def_ro("tokens_min", &PlanStep::n_min)
      .def_ro("tokens_max", &PlanStep::n_max)
      .def_ro("kernel", &PlanStep::kernel)
      .def_ro("time_us", &PlanStep::time_us)
      .def_ro("dense_us", &PlanStep::dense_us, "The best dense kernel's time at the same place.");
  nb::class_<Plan>(module, "Plan",
                   "The format and the kernels for a weight; str() tells why, as a table.")
      .def_prop_ro("format", [](const Plan& self) { return self.format.name(); })
      .def_ro("steps", &Plan::steps, "Ascending, covering every number of tokens.")
      .def_ro("nbytes", &Plan::bytes)
      .def_ro("dense_nbytes", &Plan::dense_bytes)
      .def_ro("candidates", &Plan::candidates, "All that was considered, in the order tried.")
      .def_ro("from_cache", &Plan::from_cache)
      .def("__str__", [](const Plan& self) { return describe(self); })
      .def("__repr__", [](const Plan& self) {
        return fmt::format("Plan({}, {} bytes of {} dense)", self.format.name(), self.bytes,
                           self.dense_bytes);
      });
  nb::class_<Wishes>(module, "_Wishes")
      .def(nb::new_([](std::map<std::int64_t, double> tokens, std::string activations,
                       std::string output, std::string precision, std::vector<std::string> formats,
                       std::vector<std::string> kernels, std::optional<std::size_t> memory_budget,
                       bool measure, double time_budget_s) {
             return Wishes{std::move(tokens),  std::move(activations),
                           std::move(output),  std::move(precision),
                           std::move(formats), std::move(kernels),
                           memory_budget,      measure,
                           time_budget_s};
           }),
           "tokens"_a, "activations"_a, "output"_a, "precision"_a, "formats"_a, "kernels"_a,
           "memory_budget"_a.none(), "measure"_a, "time_budget_s"_a);
  module.def("plan", &plan_one, "weight"_a, "wishes"_a, "cache_dir"_a.none(), "cache"_a);
  module.def("plan_all", &plan_all, "weights"_a, "wishes"_a, "cache_dir"_a.none(), "cache"_a);
}

}  // namespace rarefy::python
