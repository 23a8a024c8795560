// Which weights a recipe step means: llm-compressor's `targets` and `ignore`.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "rarefy/compress.h"

namespace rarefy::compress {

/// One compiled target. Module names are tensor names without ".weight". An entry matches a module
/// when it is
///  - "Linear", "ALL" or "__ALL__": every linear layer;
///  - "re:PATTERN": a regular expression (PCRE2) that matches at the start of the module's name, of
///    the tensor's name, or of the name of a module around it ("re:model.layers.3$" is all of
///    layer 3);
///  - a class name that ends in "DecoderLayer": all within decoder layers;
///  - a name: equal to the module, to a module around it, or to the last parts of its name
///    ("q_proj", "mlp.up_proj").
class TargetMatcher {
 public:
  /// Throws `Error` for a regular expression that does not compile.
  explicit TargetMatcher(std::vector<std::string> entries);
  ~TargetMatcher();
  TargetMatcher(TargetMatcher&&) noexcept;
  TargetMatcher& operator=(TargetMatcher&&) noexcept;

  /// Index of the first entry that matches `tensor_name`, or -1.
  [[nodiscard]] int match(const std::string& tensor_name) const;
  /// All entries that match; by index.
  [[nodiscard]] std::vector<bool> matches(const std::string& tensor_name) const;

 private:
  struct Entry;
  std::vector<Entry> entries_;
};

/// Whether a tensor is the weight of a linear layer: a matrix of a compute dtype named
/// "….weight" that is no embedding.
bool is_linear_weight(const CheckpointTensor& tensor);

/// Tensors that `step` prunes, in checkpoint order. Throws `Error` when a target matches nothing.
std::vector<const CheckpointTensor*> select_targets(const Checkpoint& checkpoint,
                                                    const PruneStep& step);

}  // namespace rarefy::compress
