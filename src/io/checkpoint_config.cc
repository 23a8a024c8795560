#include "io/checkpoint_config.h"

#include "base/check.h"
#include "base/json.h"
#include "io/json_fields.h"

namespace rarefy::io {
namespace {

using OrderedJson = nlohmann::ordered_json;

OrderedJson sparsity_config(const SparseSummary& sparse) {
  const double sparsity = sparse.elements == 0 ? 0.0
                                               : static_cast<double>(sparse.zeros) /
                                                     static_cast<double>(sparse.elements);
  return {{"format", "sparse-bitmask"},
          {"global_sparsity", sparsity},
          {"sparsity_structure", "unstructured"},
          {"targets", sparse.modules},
          {"ignore", OrderedJson::array()}};
}

constexpr const char* kQuantizationKeys[] = {"quantization_config", "compression_config"};

void refuse_foreign_methods(const Json& config, const std::string& file_name) {
  for (const char* key : kQuantizationKeys) {
    if (!config.contains(key) || !config[key].is_object()) continue;
    const Json method = config[key].value("quant_method", Json());
    if (method.is_null() || method == "compressed-tensors") continue;
    fail(ErrorKind::kUnsupported,
         "{}: {}: expected no quantisation or compressed-tensors, found {}", file_name, key,
         excerpt(method));
  }
}

/// Whether a quantization_config says more than how zeros are stored.
bool quantises(const OrderedJson& config) {
  return config.is_object() && config.contains("config_groups") && !config["config_groups"].empty();
}

}  // namespace

std::string config_with_sparsity(const std::optional<std::string>& text,
                                 const std::string& file_name, const SparseSummary& sparse) {
  OrderedJson config = OrderedJson::object();
  if (text) {
    refuse_foreign_methods(parse_json(*text, file_name), file_name);
    config = OrderedJson::parse(*text);  // Which keeps the order of the fields.
  }
  if (!config.is_object()) {
    fail(ErrorKind::kCorrupt, "{}: expected an object, found {}", file_name, config.type_name());
  }
  OrderedJson quantization = OrderedJson::object();
  for (const char* key : kQuantizationKeys) {
    if (!config.contains(key)) continue;
    if (quantises(config[key])) quantization = config[key];
    config.erase(key);
  }
  quantization.erase("sparsity_config");
  if (!sparse.modules.empty()) {
    quantization["quant_method"] = "compressed-tensors";
    quantization["sparsity_config"] = sparsity_config(sparse);
  }
  if (!quantization.empty()) config["quantization_config"] = quantization;
  return config.dump(2) + "\n";
}

std::string index_json(const std::map<std::string, std::string>& file_of_tensor,
                       std::uint64_t total_bytes) {
  return OrderedJson{{"metadata", {{"total_size", total_bytes}}}, {"weight_map", file_of_tensor}}
             .dump(2) +
         "\n";
}

}  // namespace rarefy::io
