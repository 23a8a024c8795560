#include "model/random_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/files.h"
#include "base/json.h"
#include "model/layer.h"
#include "rarefy/safetensors.h"

namespace rarefy {
namespace {

constexpr double kDeviation = 0.02;
constexpr std::size_t kQuantiles = 65536;

/// x with Φ(x) = p, by bisection: called once for each entry of a table.
double normal_quantile(double p) {
  double low = -10;
  double high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::numbers::sqrt2) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

/// The normal distribution in 65536 equally likely values, the `sparsity` smallest of them zero: a
/// random 16-bit number picks a weight, pruned or not.
std::vector<BFloat16> quantile_table(double sparsity) {
  std::vector<BFloat16> table(kQuantiles);
  const auto zeros = static_cast<std::size_t>(std::llround(sparsity * kQuantiles));
  const std::size_t first_zero = (kQuantiles - zeros) / 2;
  for (std::size_t i = 0; i < kQuantiles; ++i) {
    if (i >= first_zero && i < first_zero + zeros) continue;
    const double p = (static_cast<double>(i) + 0.5) / kQuantiles;
    table[i] = to_bfloat16(static_cast<float>(kDeviation * normal_quantile(p)));
  }
  return table;
}

std::uint64_t mixed(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

/// One row of weights, four from each 64-bit number of a counter: rows are independent, whichever
/// thread makes them.
void fill_row(std::uint64_t key, const std::vector<BFloat16>& table, BFloat16* row,
              std::int64_t cols) {
  std::uint64_t counter = mixed(key);
  for (std::int64_t c = 0; c < cols; c += 4) {
    counter += 0x9E3779B97F4A7C15U;
    std::uint64_t bits = mixed(counter);
    const std::int64_t end = std::min(cols, c + 4);
    for (std::int64_t i = c; i < end; ++i, bits >>= 16) row[i] = table[bits & 0xFFFFU];
  }
}

/// The bits that decide about blocks are none of those that make values.
constexpr std::uint64_t kBlocks = 0x5EED0F0B10C45ULL;

/// Values of one tensor: all from the quantiles, and blocks that are zero.
struct Values {
  std::uint64_t key = 0;
  std::shared_ptr<const std::vector<BFloat16>> table;
  double empty = 0;  ///< Share of blocks.
  int block_rows = 1, block_cols = 1;

  void fill(std::int64_t r, BFloat16* row, std::int64_t cols) const {
    fill_row(key + static_cast<std::uint64_t>(r), *table, row, cols);
    if (empty == 0) return;
    const std::int64_t grid = (cols + block_cols - 1) / block_cols;
    for (std::int64_t block = 0; block < grid; ++block) {
      const auto place = static_cast<std::uint64_t>(r / block_rows * grid + block);
      const double unit = static_cast<double>(mixed(mixed(key ^ kBlocks) + place) >> 11) * 0x1p-53;
      const std::int64_t first = block * block_cols;
      if (unit < empty)
        std::fill(row + first, row + std::min(cols, first + block_cols), BFloat16{});
    }
  }
};

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

void write_tensor(SafetensorsWriter& writer, const Tensor& tensor, const Values& from,
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

/// The values of every tensor of a model.
class ValuesOf {
 public:
  explicit ValuesOf(const RandomCheckpoint& model)
      : model_(model),
        dense_(std::make_shared<const std::vector<BFloat16>>(quantile_table(0))),
        pruned_(in_blocks() ? dense_
                            : std::make_shared<const std::vector<BFloat16>>(
                                  quantile_table(model.sparsity))) {}

  [[nodiscard]] Values operator()(const Tensor& tensor, std::size_t index) const {
    return {.key = mixed(model_.seed * 0x9E3779B97F4A7C15U + index + 1),
            .table = tensor.pruned ? pruned_ : dense_,
            .empty = tensor.pruned && in_blocks() ? model_.sparsity : 0,
            .block_rows = model_.block_rows,
            .block_cols = model_.block_cols};
  }

 private:
  [[nodiscard]] bool in_blocks() const { return model_.block_rows > 1 || model_.block_cols > 1; }

  const RandomCheckpoint& model_;
  std::shared_ptr<const std::vector<BFloat16>> dense_, pruned_;
};

/// Rows that are made when they are read.
class RandomRows final : public RowSource {
 public:
  RandomRows(const Tensor& tensor, Values values)
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
  Values values_;
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
  const ValuesOf values(model);
  SafetensorsWriter writer(directory / "model.safetensors");
  for (const Tensor& t : tensors) writer.declare(t.name, DType::kBF16, shape_of(t));
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    progress.update("write", static_cast<std::int64_t>(i),
                    static_cast<std::int64_t>(tensors.size()), tensors[i].name);
    write_tensor(writer, tensors[i], values(tensors[i], i), pool);
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
    Values values;
  };
  const ValuesOf values(model);
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
    known.emplace(t.name, Known{t, values(t, i)});
  }
  return Checkpoint::of("random weights", std::move(described),
                        [known = std::move(known)](const std::string& name) {
                          const Known& of = known.at(name);
                          return std::make_shared<RandomRows>(of.tensor, of.values);
                        });
}

}  // namespace rarefy
