// Pruning of checkpoints.
#include "rarefy/compress.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arguments.h"
#include "bindings.h"
#include "progress.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace rarefy::python {
namespace {

Recipe recipe_argument(const std::optional<std::string>& yaml, const std::string& method,
                       std::optional<double> sparsity, const std::string& pattern) {
  if (yaml) return Recipe::parse(*yaml, "recipe");
  PruneStep step;
  const std::optional<PruneMethod> parsed = parse_prune_method(method);
  require(parsed.has_value(), "method: expected magnitude, wanda or sparsegpt, got '{}'", method);
  step.method = *parsed;
  step.pattern = PrunePattern::parse(pattern);
  const std::optional<double> implied = step.pattern.implied_sparsity();
  require(sparsity.has_value() || implied.has_value(),
          "sparsity: expected a share of zeros from 0 to 1, got none");
  step.sparsity = sparsity ? *sparsity : *implied;
  require(step.sparsity >= 0 && step.sparsity <= 1,
          "sparsity: expected a share of zeros from 0 to 1, got {}", step.sparsity);
  return {.steps = {step}};
}

PruneReport prune(const std::filesystem::path& from, const std::filesystem::path& to,
                  const std::string& method, std::optional<double> sparsity,
                  const std::string& pattern, const std::optional<std::string>& recipe,
                  const std::string& calibration, std::int64_t samples, std::int64_t context,
                  std::uint64_t seed, bool overwrite, nb::object progress) {
  CallbackProgress callback(std::move(progress));
  const PruneOptions options{
      .recipe = recipe_argument(recipe, method, sparsity, pattern),
      .calibration = {.text = calibration, .samples = samples, .context = context, .seed = seed},
      .overwrite = overwrite,
      .progress = &callback};
  const nb::gil_scoped_release unlocked;
  return rarefy::prune(from, to, options);
}

std::string repr(const PruneReport& report) {
  double nnz = 0;
  double elements = 0;
  for (const PrunedTensor& tensor : report.tensors) {
    nnz += static_cast<double>(tensor.nnz);
    elements += static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
  }
  return fmt::format("PruneReport({} weights, {:.1f} % zeros, {:.1f} s)", report.tensors.size(),
                     elements > 0 ? 100 * (1 - nnz / elements) : 0, report.seconds);
}

}  // namespace

void bind_compress(nb::module_& module) {
  nb::class_<PrunedTensor>(module, "PrunedTensor", "What became of one weight.")
      .def_ro("name", &PrunedTensor::name)
      .def_ro("rows", &PrunedTensor::rows)
      .def_ro("cols", &PrunedTensor::cols)
      .def_ro("nnz", &PrunedTensor::nnz)
      .def_ro("error", &PrunedTensor::error,
              "‖(W-Ŵ)X‖² / ‖WX‖² where inputs were sampled, otherwise ‖W-Ŵ‖² / ‖W‖².");
  nb::class_<PruneReport>(module, "PruneReport", "What `prune` did.")
      .def_ro("tensors", &PruneReport::tensors)
      .def_ro("seconds", &PruneReport::seconds)
      .def_ro("peak_nbytes", &PruneReport::peak_bytes, "Peak resident set while pruning.")
      .def("__repr__", &repr);
  module.def("prune", &prune, "from_"_a, "to"_a, "method"_a, "sparsity"_a.none(), "pattern"_a,
             "recipe"_a.none(), "calibration"_a, "samples"_a, "context"_a, "seed"_a, "overwrite"_a,
             "progress"_a.none());
}

}  // namespace rarefy::python
