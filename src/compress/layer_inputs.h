// What the steps of a recipe need to know about the inputs of one decoder layer, collected in one
// pass.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compress/calibration.h"
#include "compress/sparsegpt.h"
#include "compress/wanda.h"
#include "rarefy/compress.h"

namespace rarefy::compress {

/// Collectors for the weights of one layer. Weights that read the same input share them.
class LayerInputs {
 public:
  explicit LayerInputs(std::int64_t tokens) : tokens_(tokens) {}

  /// Announces that `step` will prune `weight_name`, which has `inputs` columns.
  void expect(const std::string& weight_name, std::int64_t inputs, const PruneStep& step);

  /// The hook of a forward pass: adds tokens of a weight's input, once for weights that share it.
  void add(std::string_view weight_name, ConstMatrixRef x, ThreadPool& pool);

  [[nodiscard]] std::vector<float> norms(const std::string& weight_name) const;
  [[nodiscard]] const InputSample& sample(const std::string& weight_name) const;
  /// The factor of the step's Hessian; made at the first call, kept for the weights that share it.
  const InverseFactor& factor(const std::string& weight_name, const PruneStep& step,
                              ThreadPool& pool);
  /// Called when a weight is done: frees what no other weight needs.
  void release(const std::string& weight_name);

 private:
  struct Curvature {
    double dampening = 0;
    std::optional<Hessian> hessian;
    InverseFactor factor;
  };
  struct Input {
    std::string first;  ///< The first announced weight: the one whose hook calls count.
    std::vector<std::string> waiting;
    std::optional<InputNorms> norms;
    std::optional<InputSample> sample;
    std::vector<Curvature> curvatures;  ///< One a dampening.
  };

  std::int64_t tokens_;
  std::map<std::string, Input> inputs_;
};

}  // namespace rarefy::compress
