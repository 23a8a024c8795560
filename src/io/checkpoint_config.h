// What a written checkpoint says about itself beside its weights.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rarefy::io {

struct SparseSummary {
  std::vector<std::string> modules;      ///< Names of modules whose weight is stored sparse.
  std::int64_t zeros = 0, elements = 0;  ///< Over those weights.
};

/// config.json with `quantization_config.sparsity_config` as compressed-tensors reads it, or
/// without one when nothing is stored sparse; all other fields as they were, in their order.
/// `text` is the original's (empty when there was none), `file_name` for errors.
std::string config_with_sparsity(const std::string& text, const std::string& file_name,
                                 const SparseSummary& sparse);

/// model.safetensors.index.json.
std::string index_json(const std::map<std::string, std::string>& file_of_tensor,
                       std::uint64_t total_bytes);

}  // namespace rarefy::io
