#include "rarefy/config.h"

#include <gtest/gtest.h>

#include <string>

#include "base/json.h"
#include "expect_error.h"
#include "shared_data.h"
#include "temporary_directory.h"

namespace rarefy {
namespace {

using testing::expect_error;
using testing::TemporaryDirectory;

Json llama() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2})");
}

Json of_family(const char* architecture) {
  Json config = llama();
  config["architectures"] = {architecture};
  return config;
}

ModelConfig load(const Json& config) {
  const TemporaryDirectory dir;
  dir.write("config.json", config.dump());
  return ModelConfig::load(dir.path());
}

/// The base configuration with `changes` merged in (null removes nothing: it stays as null).
ModelConfig with(const char* changes, Json base = llama()) {
  base.update(Json::parse(changes));
  return load(base);
}

void expect_refused(const char* changes, ErrorKind kind, std::initializer_list<const char*> parts,
                    const Json& base = llama()) {
  SCOPED_TRACE(changes);
  expect_error([&] { with(changes, base); }, kind, parts);
}

TEST(ModelConfig, ReadsTinyLm) {
  const ModelConfig c = ModelConfig::load(testing::source_path("examples/models/tiny-lm"));
  EXPECT_EQ(c.family, Family::kLlama);
  EXPECT_EQ(c.architecture, "LlamaForCausalLM");
  EXPECT_EQ(c.dtype, DType::kBF16);
  EXPECT_EQ(c.vocab_size, 2048);
  EXPECT_EQ(c.hidden_size, 192);
  EXPECT_EQ(c.heads, 3);
  EXPECT_EQ(c.kv_heads, 1);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_TRUE(c.tied_embeddings);
  EXPECT_FALSE(c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm);
  EXPECT_EQ(c.bos_id, 0);
  EXPECT_EQ(c.eos_ids, (std::vector<std::int64_t>{1}));
  EXPECT_EQ(c.rope.type, RopeType::kDefault);
  EXPECT_DOUBLE_EQ(c.rope.theta, 10000.0);
  EXPECT_EQ(c.sliding_window, 0);
  // 2048·192 + 6·(2·192·192 + 2·192·64 + 3·192·512 + 2·192) + 192
  EXPECT_EQ(c.parameters(), 2'755'008);
}

TEST(ModelConfig, AppliesTheDefaultsOfEachFamily) {
  Json config = llama();
  config.erase("num_key_value_heads");
  config.erase("rms_norm_eps");
  config.erase("torch_dtype");
  config.erase("max_position_embeddings");
  const ModelConfig c = load(config);
  EXPECT_EQ(c.kv_heads, 8);
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_DOUBLE_EQ(c.rms_eps, 1e-6);
  EXPECT_EQ(c.dtype, DType::kF32);
  EXPECT_EQ(c.max_positions, 2048);
  EXPECT_FALSE(c.tied_embeddings);

  const ModelConfig mistral = with("{}", of_family("MistralForCausalLM"));
  EXPECT_EQ(mistral.family, Family::kMistral);
  EXPECT_EQ(mistral.sliding_window, 4096);
  EXPECT_EQ(with(R"({"sliding_window": null})", of_family("MistralForCausalLM")).sliding_window, 0);
  EXPECT_EQ(with(R"({"sliding_window": 128})", of_family("MistralForCausalLM")).sliding_window,
            128);

  const ModelConfig qwen2 = with("{}", of_family("Qwen2ForCausalLM"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias || qwen2.qk_norm);
  EXPECT_EQ(qwen2.head_dim, 8);
  const ModelConfig qwen3 = with("{}", of_family("Qwen3ForCausalLM"));
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_EQ(with(R"({"head_dim": 16})", of_family("Qwen3ForCausalLM")).head_dim, 16);
  EXPECT_TRUE(with(R"({"attention_bias": true})", of_family("Qwen3ForCausalLM")).o_bias);
  const ModelConfig biased = with(R"({"attention_bias": true, "mlp_bias": true})");
  EXPECT_TRUE(biased.qkv_bias && biased.o_bias && biased.mlp_bias);
}

TEST(ModelConfig, TakesTheFamilyFromModelTypeWhereArchitecturesAreMissing) {
  Json config = llama();
  config.erase("architectures");
  config["model_type"] = "qwen2";
  EXPECT_EQ(load(config).family, Family::kQwen2);
  config["model_type"] = "gpt2";
  expect_error([&] { load(config); }, ErrorKind::kUnsupported, {"model_type", "gpt2"});
  config.erase("model_type");
  expect_error([&] { load(config); }, ErrorKind::kCorrupt, {"architectures", "none"});
}

TEST(ModelConfig, ReadsBothSpellingsOfRopeAndDtype) {
  EXPECT_DOUBLE_EQ(with(R"({"rope_theta": 500000.0})").rope.theta, 500000.0);
  EXPECT_DOUBLE_EQ(with(R"({"rope_theta": 5000000})").rope.theta, 5e6);
  EXPECT_DOUBLE_EQ(
      with(R"({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}})").rope.theta, 1e6);
  EXPECT_EQ(with(R"({"rope_scaling": null, "rope_theta": 1e5})").rope.type, RopeType::kDefault);
  EXPECT_EQ(with(R"({"torch_dtype": null, "dtype": "float16"})").dtype, DType::kF16);

  const ModelConfig linear = with(R"({"rope_scaling": {"type": "linear", "factor": 4}})");
  EXPECT_EQ(linear.rope.type, RopeType::kLinear);
  EXPECT_DOUBLE_EQ(linear.rope.factor, 4.0);

  const char* kLlama3 = R"({"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3",
      "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8192}})";
  const ModelConfig llama3 = with(kLlama3);
  EXPECT_EQ(llama3.rope.type, RopeType::kLlama3);
  EXPECT_DOUBLE_EQ(llama3.rope.theta, 500000.0);
  EXPECT_DOUBLE_EQ(llama3.rope.factor, 32.0);
  EXPECT_EQ(llama3.rope.original_max_position, 8192);

  const char* kNested = R"({"rope_parameters": {
      "full_attention": {"rope_theta": 3e4, "rope_type": "default"},
      "sliding_attention": {"rope_theta": 3e4, "rope_type": "default"}}})";
  EXPECT_DOUBLE_EQ(with(kNested).rope.theta, 3e4);
  expect_refused(R"({"rope_parameters": {
      "full_attention": {"rope_theta": 3e4, "rope_type": "default"},
      "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}})",
                 ErrorKind::kUnsupported, {"rope_parameters", "same rotary embedding"});
}

TEST(ModelConfig, NamesWhatItDoesNotRun) {
  const auto kUnsupported = ErrorKind::kUnsupported;
  expect_refused(R"({"architectures": ["GPT2LMHeadModel"]})", kUnsupported,
                 {"config.json", "GPT2LMHeadModel"});
  expect_refused(R"({"hidden_act": "gelu"})", kUnsupported, {"silu", "gelu"});
  for (const char* type : {"yarn", "dynamic", "longrope", "su"}) {
    const Json scaling = {{"rope_scaling", {{"rope_type", type}, {"factor", 2.0}}}};
    expect_refused(scaling.dump().c_str(), kUnsupported, {"rope_type", type});
  }
  expect_refused(R"({"torch_dtype": "float8_e4m3fn"})", ErrorKind::kUnsupported, {"float8_e4m3fn"});
  expect_refused(R"({"quantization_config": {"quant_method": "gptq"}})", kUnsupported, {"gptq"});
  expect_refused(R"({"quantization_config": {"quant_method": "compressed-tensors",
      "config_groups": {"group_0": {}}}})",
                 kUnsupported, {"config_groups"});
  expect_refused(R"({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}})",
                 kUnsupported, {"partial_rotary_factor", "0.5"});
}

TEST(ModelConfig, ChecksTypesAndRanges) {
  const auto kCorrupt = ErrorKind::kCorrupt;
  expect_refused(R"({"hidden_size": "64"})", kCorrupt, {"config.json", "'hidden_size'", "\"64\""});
  expect_refused(R"({"hidden_size": 64.0})", kCorrupt, {"'hidden_size'", "64.0"});
  expect_refused(R"({"hidden_size": 0})", kCorrupt, {"'hidden_size'", "from 1"});
  expect_refused(R"({"hidden_size": null})", kCorrupt, {"'hidden_size'", "none"});
  expect_refused(R"({"hidden_size": -64})", kCorrupt, {"'hidden_size'", "-64"});
  expect_refused(R"({"hidden_size": 18446744073709551615})", kCorrupt, {"'hidden_size'"});
  expect_refused(R"({"num_hidden_layers": 99999999})", kCorrupt, {"'num_hidden_layers'"});
  expect_refused(R"({"num_key_value_heads": 3})", kCorrupt, {"multiple", "8 and 3"});
  expect_refused(R"({"num_attention_heads": 12, "num_key_value_heads": 4})", kCorrupt,
                 {"multiple of num_attention_heads", "64 and 12"});
  expect_refused(R"({"head_dim": 7})", kCorrupt, {"even head_dim", "7"});
  expect_refused(R"({"attention_bias": 1})", kCorrupt, {"'attention_bias'", "true or false"});
  expect_refused(R"({"tie_word_embeddings": "yes"})", kCorrupt, {"'tie_word_embeddings'"});
  expect_refused(R"({"rms_norm_eps": "1e-5"})", kCorrupt, {"'rms_norm_eps'"});
  expect_refused(R"({"rms_norm_eps": -1})", kCorrupt, {"'rms_norm_eps'", "-1"});
  expect_refused(R"({"rope_theta": 0})", kCorrupt, {"'rope_theta'"});
  expect_refused(R"({"rope_scaling": []})", kCorrupt, {"rope_scaling", "object"});
  expect_refused(R"({"rope_scaling": {"type": "linear"}})", kCorrupt, {"'factor'", "none"});
  expect_refused(R"({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4,
      "high_freq_factor": 4}})",
                 kCorrupt, {"low_freq_factor < high_freq_factor"});
  expect_refused(R"({"eos_token_id": [1, "2"]})", kCorrupt, {"'eos_token_id'"});
  expect_refused(R"({"architectures": "LlamaForCausalLM"})", kCorrupt, {"'architectures'"});
  expect_refused(R"({"architectures": ["LlamaForCausalLM", "x"]})", kCorrupt, {"'architectures'"});
  expect_refused(R"({"torch_dtype": 16})", kCorrupt, {"'torch_dtype'", "16"});
  const TemporaryDirectory dir;
  expect_error([&] { ModelConfig::load(dir.path()); }, ErrorKind::kIo, {"config.json"});
  dir.write("config.json", "[]");
  expect_error([&] { ModelConfig::load(dir.path()); }, kCorrupt, {"config.json", "object"});
}

TEST(ModelConfig, ReadsTheWindowOfQwen) {
  const Json qwen = of_family("Qwen2ForCausalLM");
  EXPECT_EQ(with(R"({"sliding_window": 64, "max_window_layers": 2})", qwen).sliding_window, 0);
  const ModelConfig c =
      with(R"({"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 2})", qwen);
  EXPECT_EQ(c.sliding_window, 64);
  EXPECT_EQ(c.sliding_first_layer, 2);
  EXPECT_EQ(
      with(R"({"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 5})", qwen)
          .sliding_window,
      0);
  const char* kTypes = R"({"use_sliding_window": true, "sliding_window": 64, "layer_types":
      ["full_attention", "full_attention", "full_attention", "sliding_attention", "sliding_attention"]})";
  EXPECT_EQ(with(kTypes, qwen).sliding_first_layer, 3);
  expect_refused(R"({"use_sliding_window": true, "sliding_window": 64, "layer_types":
      ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]})",
                 ErrorKind::kUnsupported, {"layer 2"}, qwen);
  expect_refused(R"({"use_sliding_window": true, "layer_types": ["full_attention"]})",
                 ErrorKind::kCorrupt, {"'layer_types'", "5 names"}, qwen);
}

TEST(ModelConfig, TakesStopTokensFromTheGenerationConfigFirst) {
  const TemporaryDirectory dir;
  Json config = llama();
  config["eos_token_id"] = {7, 8};
  dir.write("config.json", config.dump());
  EXPECT_EQ(ModelConfig::load(dir.path()).eos_ids, (std::vector<std::int64_t>{7, 8}));
  dir.write("generation_config.json", R"({"eos_token_id": [3, 4, 5]})");
  EXPECT_EQ(ModelConfig::load(dir.path()).eos_ids, (std::vector<std::int64_t>{3, 4, 5}));
  dir.write("generation_config.json", R"({"eos_token_id": null})");
  EXPECT_EQ(ModelConfig::load(dir.path()).eos_ids, (std::vector<std::int64_t>{7, 8}));
  dir.write("generation_config.json", "{");
  expect_error([&] { ModelConfig::load(dir.path()); }, ErrorKind::kCorrupt,
               {"generation_config.json"});
}

}  // namespace
}  // namespace rarefy
