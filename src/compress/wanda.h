// Wanda: the weights of smallest |w|·‖x‖ go (Sun, Liu, Bair, Kolter 2023, "A Simple and Effective
// Pruning Approach for Large Language Models").
#pragma once

#include <cstdint>
#include <vector>

#include "compress/weight.h"
#include "rarefy/tensor.h"

namespace rarefy::compress {

/// ‖x_j‖₂ of each of K inputs over all tokens seen; sums in double, in the order of the tokens.
class InputNorms {
 public:
  explicit InputNorms(std::int64_t inputs) : squares_(static_cast<std::size_t>(inputs)) {}
  void add(ConstMatrixRef x, ThreadPool& pool);  ///< x: T×K f32
  /// Throws `Error` (kInvalidArgument) that names `weight_name` when an input was not finite.
  [[nodiscard]] std::vector<float> norms(const std::string& weight_name) const;

 private:
  std::vector<double> squares_;
};

/// Zeroes the weights of smallest |w_ij|·‖x_j‖₂ within each group of `rule`; the paper's group is
/// a row (one output). Blocks: of smallest Σ(|w_ij|·‖x_j‖₂)².
void prune_wanda(DenseWeight& weight, const std::vector<float>& input_norms, const MaskRule& rule,
                 ThreadPool& pool);

}  // namespace rarefy::compress
