#include "compress/layer_inputs.h"

#include <algorithm>

#include "base/check.h"

namespace rarefy::compress {
namespace {

/// Tokens that output errors are measured over: enough for two digits, 14 MiB at 14336 inputs.
constexpr std::int64_t kSampleTokens = 256;

}  // namespace

void LayerInputs::expect(const std::string& weight_name, std::int64_t inputs,
                         const PruneStep& step) {
  Input& input = inputs_[input_key(weight_name)];
  if (input.first.empty()) input.first = weight_name;
  if (std::find(input.waiting.begin(), input.waiting.end(), weight_name) == input.waiting.end())
    input.waiting.push_back(weight_name);
  if (!input.sample) input.sample.emplace(inputs, tokens_, kSampleTokens);
  if (step.method == PruneMethod::kWanda && !input.norms) input.norms.emplace(inputs);
  if (step.method != PruneMethod::kSparseGpt) return;
  const bool known = std::any_of(input.curvatures.begin(), input.curvatures.end(),
                                 [&](const Curvature& c) { return c.dampening == step.dampening; });
  if (!known) input.curvatures.push_back({step.dampening, Hessian(inputs), {}});
}

void LayerInputs::add(std::string_view weight_name, ConstMatrixRef x, ThreadPool& pool) {
  const auto found = inputs_.find(input_key(weight_name));
  if (found == inputs_.end() || found->second.first != weight_name) return;
  Input& input = found->second;
  if (input.norms) input.norms->add(x, pool);
  for (Curvature& curvature : input.curvatures) curvature.hessian->add(x, pool);
  input.sample->add(x);
}

std::vector<float> LayerInputs::norms(const std::string& weight_name) const {
  return inputs_.at(input_key(weight_name)).norms->norms(weight_name);
}

const InputSample& LayerInputs::sample(const std::string& weight_name) const {
  return *inputs_.at(input_key(weight_name)).sample;
}

const InverseFactor& LayerInputs::factor(const std::string& weight_name, const PruneStep& step,
                                         ThreadPool& pool) {
  std::vector<Curvature>& curvatures = inputs_.at(input_key(weight_name)).curvatures;
  const auto found = std::find_if(curvatures.begin(), curvatures.end(), [&](const Curvature& c) {
    return c.dampening == step.dampening;
  });
  if (found == curvatures.end())
    fail(ErrorKind::kInternal, "{}: no Hessian was collected", weight_name);
  if (found->hessian) {
    found->factor = factorise(std::move(*found->hessian), step.dampening, weight_name, pool);
    found->hessian.reset();
  }
  return found->factor;
}

void LayerInputs::release(const std::string& weight_name) {
  const auto found = inputs_.find(input_key(weight_name));
  if (found == inputs_.end()) return;
  std::erase(found->second.waiting, weight_name);
  if (found->second.waiting.empty()) inputs_.erase(found);
}

}  // namespace rarefy::compress
