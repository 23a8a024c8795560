// config.json of the decoder families that Rarefy runs: Llama, Mistral, Qwen2, Qwen3.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "rarefy/dtype.h"

namespace rarefy {

enum class Family : std::uint8_t { kLlama, kMistral, kQwen2, kQwen3 };

const char* to_string(Family family);

enum class RopeType : std::uint8_t { kDefault, kLinear, kLlama3 };

struct RopeConfig {
  double theta = 10000.0;
  RopeType type = RopeType::kDefault;
  double factor = 1.0;                        ///< kLinear, kLlama3
  double low_freq_factor = 1.0;               ///< kLlama3
  double high_freq_factor = 4.0;              ///< kLlama3
  std::int64_t original_max_position = 8192;  ///< kLlama3
};

struct ModelConfig {
  Family family = Family::kLlama;
  std::string architecture;  ///< "LlamaForCausalLM"
  DType dtype = DType::kBF16;
  std::int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, layers = 0;
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t max_positions = 0;
  double rms_eps = 1e-5;
  RopeConfig rope;
  std::int64_t sliding_window = 0;  ///< 0: none. Mistral's, when config.json sets it.
  std::int64_t sliding_first_layer =
      0;                  ///< Layers from this one on use the window (Qwen's max_window_layers).
  bool qkv_bias = false;  ///< Qwen2, or attention_bias.
  bool o_bias = false;    ///< attention_bias of Llama.
  bool mlp_bias = false;
  bool qk_norm = false;  ///< Qwen3.
  bool tied_embeddings = false;
  std::optional<std::int64_t> bos_id;
  std::vector<std::int64_t>
      eos_ids;  ///< From generation_config.json when there, else from config.json.

  /// Reads config.json (and generation_config.json) of a model folder. Throws `Error`: kUnsupported
  /// names the architecture, activation or rope type that Rarefy does not run; kCorrupt names the
  /// field, expected, found.
  static ModelConfig load(const std::filesystem::path& directory);

  /// Parameters of the whole model, embeddings counted once when tied.
  [[nodiscard]] std::int64_t parameters() const;
};

}  // namespace rarefy
