#include "base/json.h"
#include "io/checkpoint_config.h"
#include "io/config_json.h"
#include "mutator.h"

namespace rarefy {
namespace {

void parse(std::string_view input) {
  io::config_with_sparsity(std::string(input), "config.json", {{"a.b"}, 1, 2});
  const Json json = parse_json(input, "config.json");
  const io::JsonFields fields(json, "config.json");
  // The same text as both files: generation_config.json has its own few fields of the same names.
  const ModelConfig config = io::model_config(fields, &fields);
  if (config.parameters() <= 0 || config.heads % config.kv_heads != 0 || config.head_dim % 2 != 0 ||
      config.sliding_first_layer > config.layers) {
    throw std::logic_error("accepted a model that cannot be");
  }
}

}  // namespace

RAREFY_FUZZ_TARGET(
    Config, parse,
    (fuzz::Corpus{
        .seeds =
            {R"({"architectures":["LlamaForCausalLM"],"vocab_size":100,"hidden_size":64,)"
             R"("intermediate_size":172,"num_hidden_layers":5,"num_attention_heads":8,)"
             R"("num_key_value_heads":4,"rope_theta":1e4,"torch_dtype":"bfloat16",)"
             R"("eos_token_id":[1,2],"rope_scaling":{"type":"llama3","factor":8.0,)"
             R"("low_freq_factor":1.0,"high_freq_factor":4.0,)"
             R"("original_max_position_embeddings":8192}})",
             R"({"model_type":"qwen3","vocab_size":100,"hidden_size":64,"intermediate_size":172,)"
             R"("num_hidden_layers":3,"num_attention_heads":8,"num_key_value_heads":4,)"
             R"("head_dim":16,"dtype":"float32","use_sliding_window":true,"sliding_window":16,)"
             R"("layer_types":["full_attention","sliding_attention","sliding_attention"],)"
             R"("rope_parameters":{"full_attention":{"rope_type":"default","rope_theta":1e6}},)"
             R"("quantization_config":{"quant_method":"compressed-tensors","config_groups":{}}})"},
        .words = {"null", "true", "{}", "[]", "\"MistralForCausalLM\"", "\"Qwen2ForCausalLM\"",
                  "\"head_dim\":", "\"rope_theta\":", "\"type\":\"linear\",\"factor\":2",
                  "\"attention_bias\":true", "\"tie_word_embeddings\":", "\"max_window_layers\":",
                  "\"yarn\"", "\"silu\"", "\"generation\":", ",", "\"", "}"}}))

}  // namespace rarefy
