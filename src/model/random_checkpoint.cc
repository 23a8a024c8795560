#include "model/random_checkpoint.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/files.h"
#include "base/json.h"
#include "model/layer.h"
#include "model/random_values.h"
#include "rarefy/safetensors.h"

namespace rarefy {
namespace {

struct Tensor {
  std::string name;
  std::int64_t rows, cols;
  bool norm;    ///< All ones.
  bool pruned;  ///< Takes part in the sparsity.
};

std::vector<Tensor> list_tensors(const RandomCheckpoint& model) {
  const ModelConfig& c = model.config;
  std::vector<Tensor> tensors;
  tensors.push_back({"model.embed_tokens.weight", c.vocab_size, c.hidden_size, false,
                     c.tied_embeddings && model.prune_head});
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const std::string prefix = model::layer_prefix(layer);
    tensors.push_back({prefix + "input_layernorm.weight", 1, c.hidden_size, true, false});
    tensors.push_back({prefix + "post_attention_layernorm.weight", 1, c.hidden_size, true, false});
    for (const model::ProjectionShape& shape : model::projection_shapes(c))
      tensors.push_back({prefix + shape.module + ".weight", shape.rows, shape.cols, false, true});
  }
  tensors.push_back({"model.norm.weight", 1, c.hidden_size, true, false});
  if (!c.tied_embeddings)
    tensors.push_back({"lm_head.weight", c.vocab_size, c.hidden_size, false, model.prune_head});
  return tensors;
}

void write_tensor(SafetensorsWriter& writer, const Tensor& tensor, const RandomValues& from,
                  ThreadPool& pool) {
  if (tensor.norm) {
    const std::vector<BFloat16> ones(static_cast<std::size_t>(tensor.cols), to_bfloat16(1.0F));
    writer.write(ones.data(), ones.size() * sizeof(BFloat16));
    return;
  }
  const std::int64_t panel =
      std::max<std::int64_t>(1, (std::int64_t{16} << 20) / std::max<std::int64_t>(1, tensor.cols));
  std::vector<BFloat16> values;
  for (std::int64_t first = 0; first < tensor.rows; first += panel) {
    const std::int64_t rows = std::min(panel, tensor.rows - first);
    values.resize(static_cast<std::size_t>(rows * tensor.cols));
    pool.parallel_for(rows, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r)
        from.fill(first + r, values.data() + r * tensor.cols, tensor.cols);
    });
    writer.write(values.data(), values.size() * sizeof(BFloat16));
  }
}

/// Rows that are made when they are read.
class RandomRows final : public RowSource {
 public:
  RandomRows(const Tensor& tensor, RandomValues values)
      : rows_(tensor.rows), cols_(tensor.cols), norm_(tensor.norm), values_(std::move(values)) {}
  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return DType::kBF16; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    auto* to = static_cast<BFloat16*>(out);
    if (norm_) {
      std::fill_n(to, (end - begin) * cols_, to_bfloat16(1.0F));
      return;
    }
    for (std::int64_t r = begin; r < end; ++r) values_.fill(r, to + (r - begin) * cols_, cols_);
  }

 private:
  std::int64_t rows_, cols_;
  bool norm_;
  RandomValues values_;
};

Shape shape_of(const Tensor& t) {
  return t.norm ? Shape{t.cols} : Shape{t.rows, t.cols};
}

std::string config_json(const ModelConfig& c) {
  Json json{{"architectures", {"LlamaForCausalLM"}},
            {"model_type", "llama"},
            {"vocab_size", c.vocab_size},
            {"hidden_size", c.hidden_size},
            {"intermediate_size", c.intermediate_size},
            {"num_hidden_layers", c.layers},
            {"num_attention_heads", c.heads},
            {"num_key_value_heads", c.kv_heads},
            {"head_dim", c.head_dim},
            {"hidden_act", "silu"},
            {"attention_bias", false},
            {"mlp_bias", false},
            {"max_position_embeddings", c.max_positions},
            {"rms_norm_eps", c.rms_eps},
            {"rope_theta", c.rope.theta},
            {"tie_word_embeddings", c.tied_embeddings},
            {"torch_dtype", "bfloat16"},
            {"bos_token_id", 0},
            {"eos_token_id", 1}};
  return json.dump(2) + "\n";
}

void write_text(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void copy_tokenizer(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (from.empty()) return;
  write_text(to / "tokenizer.json", read_text(from / "tokenizer.json"));
  if (std::filesystem::exists(from / "tokenizer_config.json"))
    write_text(to / "tokenizer_config.json", read_text(from / "tokenizer_config.json"));
}

void check(const RandomCheckpoint& model) {
  const ModelConfig& c = model.config;
  require(model.sparsity >= 0 && model.sparsity < 1,
          "random checkpoint: sparsity: expected at least 0 and below 1, got {}", model.sparsity);
  require(model.block_rows > 0 && model.block_cols > 0,
          "random checkpoint: expected blocks of at least 1x1, got {}x{}", model.block_rows,
          model.block_cols);
  require(model.pattern == ZeroPattern::kEven || (model.block_rows == 1 && model.block_cols == 1),
          "random checkpoint: expected blocks of 1x1 where zeros are skewed, got {}x{}",
          model.block_rows, model.block_cols);
  require(c.family == Family::kLlama && !c.qkv_bias && !c.o_bias && !c.mlp_bias && !c.qk_norm,
          "random checkpoint: expected a Llama without biases, got {}", to_string(c.family));
}

void check_empty(const std::filesystem::path& directory) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    if (std::filesystem::exists(directory / name))
      fail(ErrorKind::kIo, "{}: holds a model already", (directory / name).string());
  }
}

}  // namespace

ModelConfig random_shape(std::string_view name) {
  struct Row {
    const char* name;
    std::int64_t vocab, hidden, ffn, layers, heads, kv_heads, head_dim;
    bool tied;
  };
  constexpr Row kRows[] = {
      {"tiny", 2048, 256, 512, 2, 4, 2, 64, true},
      {"100m", 32000, 768, 2048, 12, 12, 4, 64, true},
      {"1b", 32000, 2048, 8192, 16, 32, 8, 64, true},
      {"1b-128k", 128256, 2048, 8192, 16, 32, 8, 64, true},
      {"3b", 128256, 3072, 8192, 28, 24, 8, 128, true},
      {"7b", 32000, 4096, 11008, 32, 32, 32, 128, false},
      {"8b", 128256, 4096, 14336, 32, 32, 8, 128, false},
      {"27b", 32000, 5376, 21504, 64, 32, 16, 128, false},
  };
  std::string names;
  for (const Row& row : kRows) {
    names += names.empty() ? row.name : std::string(", ") + row.name;
    if (name != row.name) continue;
    ModelConfig c;
    c.architecture = "LlamaForCausalLM";
    c.vocab_size = row.vocab;
    c.hidden_size = row.hidden;
    c.intermediate_size = row.ffn;
    c.layers = row.layers;
    c.heads = row.heads;
    c.kv_heads = row.kv_heads;
    c.head_dim = row.head_dim;
    c.tied_embeddings = row.tied;
    c.max_positions = 8192;
    c.rope.theta = 500000.0;
    return c;
  }
  fail(ErrorKind::kInvalidArgument, "random checkpoint: shape: expected one of {}, got '{}'", names,
       name);
}

void write_random_checkpoint(const std::filesystem::path& directory, const RandomCheckpoint& model,
                             ThreadPool& pool, Progress& progress) {
  check(model);
  check_empty(directory);
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    fail(ErrorKind::kIo, "{}: could not create the folder: {}", directory.string(),
         error.message());
  }
  const std::vector<Tensor> tensors = list_tensors(model);
  const RandomTensors values(model);
  SafetensorsWriter writer(directory / "model.safetensors");
  for (const Tensor& t : tensors) writer.declare(t.name, DType::kBF16, shape_of(t));
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    progress.update("write", static_cast<std::int64_t>(i),
                    static_cast<std::int64_t>(tensors.size()), tensors[i].name);
    write_tensor(writer, tensors[i], values.of(i, tensors[i].rows, tensors[i].pruned), pool);
  }
  writer.finish(/*durable=*/false);
  copy_tokenizer(model.tokenizer_from, directory);
  write_text(directory / "generation_config.json",
             "{\n  \"bos_token_id\": 0,\n  \"eos_token_id\": 1\n}\n");
  write_text(directory / "config.json", config_json(model.config));
  progress.update("write", static_cast<std::int64_t>(tensors.size()),
                  static_cast<std::int64_t>(tensors.size()), "");
}

std::shared_ptr<const Checkpoint> random_checkpoint(const RandomCheckpoint& model) {
  check(model);
  struct Known {
    Tensor tensor;
    RandomValues values;
  };
  const RandomTensors values(model);
  std::map<std::string, Known> known;
  std::vector<CheckpointTensor> described;
  const std::vector<Tensor> tensors = list_tensors(model);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& t = tensors[i];
    const std::size_t bytes = static_cast<std::size_t>(t.rows * t.cols) * sizeof(BFloat16);
    described.push_back({.name = t.name,
                         .dtype = DType::kBF16,
                         .shape = shape_of(t),
                         .bytes = bytes,
                         .dense_bytes = bytes});
    known.emplace(t.name, Known{t, values.of(i, t.rows, t.pruned)});
  }
  return Checkpoint::of("random weights", std::move(described),
                        [known = std::move(known)](const std::string& name) {
                          const Known& of = known.at(name);
                          return std::make_shared<RandomRows>(of.tensor, of.values);
                        });
}

}  // namespace rarefy
