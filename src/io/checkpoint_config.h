// What a written checkpoint says about itself beside its weights.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace rarefy::io {

struct SparseSummary {
  std::vector<std::string> modules;      ///< Names of modules whose weight is stored sparse.
  std::int64_t zeros = 0, elements = 0;  ///< Over those weights.
};

/// config.json with `quantization_config.sparsity_config` as compressed-tensors reads it, or
/// without one when nothing is stored sparse; all other fields as they were, in their order.
/// `text` is the original's (nothing when there was none), `file_name` for errors: kCorrupt unless
/// it is a JSON object, kUnsupported where a method other than compressed-tensors quantised the
/// model, whose settings have no place for ours.
std::string config_with_sparsity(const std::optional<std::string>& text,
                                 const std::string& file_name, const SparseSummary& sparse);

/// model.safetensors.index.json.
std::string index_json(const std::map<std::string, std::string>& file_of_tensor,
                       std::uint64_t total_bytes);

}  // namespace rarefy::io
