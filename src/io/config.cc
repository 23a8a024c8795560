#include "rarefy/config.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <system_error>

#include "base/check.h"
#include "base/files.h"
#include "io/config_json.h"

namespace rarefy {
namespace {

using io::JsonFields;

// Far above any model, and low enough that no product of them overflows (see parameters()).
constexpr std::int64_t kMostVocab = std::int64_t{1} << 26;
constexpr std::int64_t kMostWidth = std::int64_t{1} << 20;
constexpr std::int64_t kMostFfn = std::int64_t{1} << 22;
constexpr std::int64_t kMostLayers = std::int64_t{1} << 12;
constexpr std::int64_t kMostHeads = std::int64_t{1} << 14;
constexpr std::int64_t kMostHeadDim = std::int64_t{1} << 12;
constexpr std::int64_t kMostPositions = std::int64_t{1} << 30;

/// What transformers assumes for a field that config.json leaves out.
struct FamilyRow {
  Family family;
  const char* name;  ///< model_type
  const char* architecture;
  std::int64_t kv_heads;  ///< 0: as many as heads.
  std::int64_t head_dim;  ///< 0: hidden_size / heads.
  std::int64_t max_positions;
  std::int64_t bos, eos;  ///< -1: none.
};

constexpr FamilyRow kFamilies[] = {
    {Family::kLlama, "llama", "LlamaForCausalLM", 0, 0, 2048, 1, 2},
    {Family::kMistral, "mistral", "MistralForCausalLM", 8, 0, 131072, 1, 2},
    {Family::kQwen2, "qwen2", "Qwen2ForCausalLM", 32, 0, 32768, -1, -1},
    {Family::kQwen3, "qwen3", "Qwen3ForCausalLM", 32, 128, 32768, -1, -1},
};

const FamilyRow& family_row(const JsonFields& config) {
  constexpr std::string_view kExpected =
      "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM";
  if (const Json* list = config.find("architectures"); list != nullptr && !list->empty()) {
    if (!list->is_array() || list->size() != 1 || !list->front().is_string()) {
      config.mismatch("architectures", "a list of one name");
    }
    const auto& name = list->front().get_ref<const std::string&>();
    for (const FamilyRow& row : kFamilies) {
      if (name == row.architecture) return row;
    }
    fail(ErrorKind::kUnsupported, "{}: expected the architecture {}, found '{}'", config.where(),
         kExpected, name);
  }
  const auto type = config.maybe_string("model_type");
  if (!type) config.mismatch("architectures", "a list of one name");
  for (const FamilyRow& row : kFamilies) {
    if (*type == row.name) return row;
  }
  fail(ErrorKind::kUnsupported,
       "{}: expected the model_type llama, mistral, qwen2 or qwen3, found '{}'", config.where(),
       *type);
}

void refuse_quantised(const JsonFields& config) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    const auto quantisation = config.maybe_object(key);
    if (!quantisation) continue;
    const auto method = quantisation->maybe_string("quant_method");
    if (method && *method != "compressed-tensors") {
      fail(ErrorKind::kUnsupported,
           "{}: expected no quantisation or compressed-tensors, found '{}'", quantisation->where(),
           *method);
    }
    const Json* groups = quantisation->find("config_groups");
    if (groups != nullptr && !groups->empty()) {
      fail(ErrorKind::kUnsupported, "{}: expected no quantised weights, found config_groups {}",
           quantisation->where(), io::excerpt(*groups));
    }
  }
}

DType model_dtype(const JsonFields& config) {
  const char* key = config.find("dtype") != nullptr ? "dtype" : "torch_dtype";
  const auto name = config.maybe_string(key);
  if (!name || *name == "auto") return DType::kF32;  // transformers' answer when nothing is said
  const auto dtype = parse_dtype(*name);
  if (!dtype || !is_compute_dtype(*dtype)) {
    fail(ErrorKind::kUnsupported, "{}: expected float32, float16 or bfloat16 for '{}', found '{}'",
         config.where(), key, *name);
  }
  return *dtype;
}

void read_attention(const JsonFields& config, const FamilyRow& family, ModelConfig& model) {
  model.heads = config.integer("num_attention_heads", 1, kMostHeads);
  // An explicit null means "as many as heads" whatever the family assumes.
  const bool assumed = !config.contains("num_key_value_heads") && family.kv_heads != 0;
  model.kv_heads = config.maybe_integer("num_key_value_heads", 1, kMostHeads)
                       .value_or(assumed ? family.kv_heads : model.heads);
  if (model.heads % model.kv_heads != 0) {
    fail(
        ErrorKind::kCorrupt,
        "{}: expected num_attention_heads to be a multiple of num_key_value_heads, found {} and {}",
        config.where(), model.heads, model.kv_heads);
  }
  if (const auto head_dim = config.maybe_integer("head_dim", 1, kMostHeadDim)) {
    model.head_dim = *head_dim;
  } else if (!config.contains("head_dim") && family.head_dim != 0) {
    model.head_dim = family.head_dim;
  } else if (model.hidden_size % model.heads == 0) {
    model.head_dim = model.hidden_size / model.heads;
  } else {
    fail(ErrorKind::kCorrupt,
         "{}: expected hidden_size to be a multiple of num_attention_heads, found {} and {}",
         config.where(), model.hidden_size, model.heads);
  }
  if (model.head_dim % 2 != 0) {
    fail(ErrorKind::kCorrupt, "{}: expected an even head_dim (rotary pairs), found {}",
         config.where(), model.head_dim);
  }
  const bool bias = config.boolean("attention_bias", false);
  switch (model.family) {
    case Family::kLlama:
    case Family::kQwen3:
      model.qkv_bias = model.o_bias = bias;
      break;
    case Family::kQwen2:
      model.qkv_bias = true;
      break;
    case Family::kMistral:
      break;
  }
  model.qk_norm = model.family == Family::kQwen3;
}

/// The first layer of `layer_types` that slides, checking that all after it do too.
std::int64_t first_sliding(const JsonFields& config, const Json& types, std::int64_t layers) {
  if (!types.is_array() || static_cast<std::int64_t>(types.size()) != layers) {
    config.mismatch("layer_types", fmt::format("a list of {} names", layers));
  }
  std::int64_t first = layers;
  for (std::int64_t i = 0; i < layers; ++i) {
    const Json& type = types[static_cast<std::size_t>(i)];
    const bool slides = type == "sliding_attention";
    if (!slides && type != "full_attention") {
      fail(ErrorKind::kUnsupported,
           "{}: expected full_attention or sliding_attention for layer {}, found {}",
           config.where(), i, io::excerpt(type));
    }
    if (slides && first == layers) first = i;
    if (!slides && first != layers) {
      fail(ErrorKind::kUnsupported,
           "{}: expected sliding_attention from layer {} on, found full_attention in layer {}",
           config.where(), first, i);
    }
  }
  return first;
}

void read_sliding_window(const JsonFields& config, ModelConfig& model) {
  constexpr std::int64_t kAssumedWindow = 4096;
  const auto window = config.maybe_integer("sliding_window", 1, kMostPositions);
  if (model.family == Family::kMistral) {
    model.sliding_window = config.contains("sliding_window") ? window.value_or(0) : kAssumedWindow;
    return;
  }
  if (model.family == Family::kLlama || !config.boolean("use_sliding_window", false)) return;
  if (config.contains("sliding_window") && !window) return;
  const Json* types = config.find("layer_types");
  model.sliding_first_layer =
      types != nullptr ? first_sliding(config, *types, model.layers)
                       : config.maybe_integer("max_window_layers", 0, kMostLayers).value_or(28);
  if (model.sliding_first_layer >= model.layers) {
    model.sliding_first_layer = 0;
    return;
  }
  model.sliding_window = window.value_or(kAssumedWindow);
}

/// An id or a list of ids.
std::vector<std::int64_t> token_ids(const JsonFields& config, const char* key) {
  const Json* value = config.find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {config.integer(key, 0, kMostVocab)};
  std::vector<std::int64_t> ids;
  for (const Json& id : *value) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > kMostVocab) {
      config.mismatch(key, fmt::format("integers from 0 to {}", kMostVocab));
    }
    ids.push_back(static_cast<std::int64_t>(id.get<std::uint64_t>()));
  }
  return ids;
}

void read_tokens(const JsonFields& config, const JsonFields* generation, const FamilyRow& family,
                 ModelConfig& model) {
  model.bos_id = config.maybe_integer("bos_token_id", 0, kMostVocab);
  if (!config.contains("bos_token_id") && family.bos >= 0) model.bos_id = family.bos;
  if (generation != nullptr) model.eos_ids = token_ids(*generation, "eos_token_id");
  if (!model.eos_ids.empty()) return;
  model.eos_ids = token_ids(config, "eos_token_id");
  if (!config.contains("eos_token_id") && family.eos >= 0) model.eos_ids = {family.eos};
}

}  // namespace

ModelConfig io::model_config(const JsonFields& config, const JsonFields* generation) {
  const FamilyRow& family = family_row(config);
  refuse_quantised(config);
  ModelConfig model;
  model.family = family.family;
  model.architecture = family.architecture;
  model.dtype = model_dtype(config);
  model.vocab_size = config.integer("vocab_size", 1, kMostVocab);
  model.hidden_size = config.integer("hidden_size", 1, kMostWidth);
  model.intermediate_size = config.integer("intermediate_size", 1, kMostFfn);
  model.layers = config.integer("num_hidden_layers", 1, kMostLayers);
  read_attention(config, family, model);
  model.max_positions = config.maybe_integer("max_position_embeddings", 1, kMostPositions)
                            .value_or(family.max_positions);
  model.rms_eps = config.maybe_number("rms_norm_eps", 0.0, 1.0).value_or(1e-6);
  model.mlp_bias = model.family == Family::kLlama && config.boolean("mlp_bias", false);
  model.tied_embeddings = config.boolean("tie_word_embeddings", false);
  if (const auto act = config.maybe_string("hidden_act");
      act && *act != "silu" && *act != "swish") {
    fail(ErrorKind::kUnsupported, "{}: expected the activation silu, found '{}'", config.where(),
         *act);
  }
  model.rope = rope_config(config, model.max_positions);
  read_sliding_window(config, model);
  read_tokens(config, generation, family, model);
  return model;
}

const char* to_string(Family family) {
  return std::find_if(std::begin(kFamilies), std::end(kFamilies),
                      [family](const FamilyRow& row) { return row.family == family; })
      ->name;
}

ModelConfig ModelConfig::load(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  const std::filesystem::path generation_path = directory / "generation_config.json";
  const Json config = parse_json(read_text(path), path.string());
  const JsonFields fields(config, path.string());
  std::error_code ignored;
  if (!std::filesystem::exists(generation_path, ignored)) return io::model_config(fields, nullptr);
  const Json generation = parse_json(read_text(generation_path), generation_path.string());
  const JsonFields generation_fields(generation, generation_path.string());
  return io::model_config(fields, &generation_fields);
}

std::int64_t ModelConfig::parameters() const {
  const std::int64_t q = heads * head_dim;
  const std::int64_t kv = kv_heads * head_dim;
  std::int64_t layer = hidden_size * (q + 2 * kv) + q * hidden_size;  // attention
  layer += 3 * hidden_size * intermediate_size;                       // gate, up, down
  layer += 2 * hidden_size;                                           // the two norms
  if (qkv_bias) layer += q + 2 * kv;
  if (o_bias) layer += hidden_size;
  if (mlp_bias) layer += 2 * intermediate_size + hidden_size;
  if (qk_norm) layer += 2 * head_dim;
  const std::int64_t embeddings = vocab_size * hidden_size * (tied_embeddings ? 1 : 2);
  return layers * layer + embeddings + hidden_size;
}

}  // namespace rarefy
