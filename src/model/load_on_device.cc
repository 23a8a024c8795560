#include "model/load_on_device.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "model/layer.h"
#include "model/rope_frequencies.h"
#include "model/staging.h"
#include "rarefy/log.h"

namespace rarefy {

Support cuda_support() {
  return device_decoder_support();
}

namespace model {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

/// Weights one below the other, as one: products that read the same activations run as one.
class StackedRows final : public RowSource {
 public:
  explicit StackedRows(std::vector<std::shared_ptr<const RowSource>> parts)
      : parts_(std::move(parts)) {
    for (const auto& part : parts_) {
      rows_ += part->rows();
      require(part->dtype() == dtype() && part->cols() == cols(),
              "model: expected q, k, v (and gate, up) of one dtype, got {} and {}",
              to_string(dtype()), to_string(part->dtype()));
    }
  }
  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return parts_.front()->cols(); }
  [[nodiscard]] DType dtype() const override { return parts_.front()->dtype(); }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    auto* to = static_cast<std::byte*>(out);
    std::int64_t first = 0;
    for (const auto& part : parts_) {
      const std::int64_t from = std::clamp<std::int64_t>(begin - first, 0, part->rows());
      const std::int64_t until = std::clamp<std::int64_t>(end - first, 0, part->rows());
      first += part->rows();
      if (from >= until) continue;
      part->read_rows(from, until, to);
      to += static_cast<std::size_t>((until - from) * cols()) * size_of(dtype());
    }
  }

 private:
  std::vector<std::shared_ptr<const RowSource>> parts_;
  std::int64_t rows_ = 0;
};

DecoderShape shape_of(const ModelConfig& config) {
  DecoderShape shape;
  shape.vocab = config.vocab_size;
  shape.hidden = config.hidden_size;
  shape.ffn = config.intermediate_size;
  shape.layers = config.layers;
  shape.heads = config.heads;
  shape.kv_heads = config.kv_heads;
  shape.head_dim = config.head_dim;
  shape.head_norm = config.qk_norm;
  shape.eps = static_cast<float>(config.rms_eps);
  shape.window = config.sliding_window;
  shape.window_first_layer = config.sliding_first_layer;
  shape.rope_frequencies = rope_frequencies(config.rope, config.head_dim);
  return shape;
}

/// Biases of several projections, one after the other; empty when none has one.
std::vector<float> stacked_bias(const DecoderLayer& layer,
                                std::initializer_list<DecoderLayer::Place> places) {
  std::vector<float> all;
  for (const DecoderLayer::Place place : places) {
    const std::vector<float>& bias = layer.projections[place].bias;
    all.insert(all.end(), bias.begin(), bias.end());
  }
  return all;
}

void add_layer(DeviceDecoder& decoder, const Checkpoint& checkpoint, const ModelConfig& config,
               std::int64_t index, ThreadPool& pool) {
  using L = DecoderLayer;
  const DecoderLayer layer = load_layer_vectors(checkpoint, config, index);
  const std::vector<ProjectionShape> shapes = projection_shapes(config);
  const auto stack = [&](std::initializer_list<L::Place> places) {
    std::vector<std::shared_ptr<const RowSource>> parts;
    for (const L::Place place : places)
      parts.push_back(stage_weight(checkpoint, layer.projections[place].name, shapes[place].rows,
                                   shapes[place].cols, pool));
    return StackedRows(std::move(parts));
  };
  const StackedRows qkv = stack({L::kQ, L::kK, L::kV});
  const StackedRows o = stack({L::kO});
  const StackedRows gate_up = stack({L::kGate, L::kUp});
  const StackedRows down = stack({L::kDown});
  const std::vector<float> qkv_bias = stacked_bias(layer, {L::kQ, L::kK, L::kV});
  const std::vector<float> gate_up_bias = stacked_bias(layer, {L::kGate, L::kUp});
  decoder.add_layer({.qkv = &qkv,
                     .o = &o,
                     .gate_up = &gate_up,
                     .down = &down,
                     .attention_norm = layer.attention_norm,
                     .mlp_norm = layer.mlp_norm,
                     .q_norm = layer.q_norm,
                     .k_norm = layer.k_norm,
                     .qkv_bias = qkv_bias,
                     .o_bias = layer.projections[L::kO].bias,
                     .gate_up_bias = gate_up_bias,
                     .down_bias = layer.projections[L::kDown].bias});
  for (const Projection& projection : layer.projections) checkpoint.drop_pages(projection.name);
}

std::unique_ptr<DeviceDecoder> load_with(const DeviceDecoderOptions& wanted,
                                         const Checkpoint& checkpoint, const ModelConfig& config,
                                         const LoadOptions& options, ThreadPool& pool) {
  Progress& progress = options.progress != nullptr ? *options.progress : no_progress();
  auto decoder = open_device_decoder(shape_of(config), wanted, pool);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    progress.update("load", i, config.layers, layer_prefix(i));
    add_layer(*decoder, checkpoint, config, i, pool);
    if (decoder->weight_bytes() > options.memory_budget)
      fail(ErrorKind::kOutOfMemory, "model: expected weights of at most {} bytes, got more",
           options.memory_budget);
  }
  const auto embeddings =
      stage_weight(checkpoint, kEmbedding, config.vocab_size, config.hidden_size, pool);
  const auto head = config.tied_embeddings ? nullptr
                                           : stage_weight(checkpoint, kHead, config.vocab_size,
                                                          config.hidden_size, pool);
  const std::vector<float> norm = stage_vector(checkpoint, "model.norm.weight", config.hidden_size);
  decoder->finish(*embeddings, norm, head.get());
  checkpoint.drop_pages(kEmbedding);
  if (head != nullptr) checkpoint.drop_pages(kHead);
  progress.update("load", config.layers, config.layers, "");
  return decoder;
}

}  // namespace

bool runs_on_device(Device device, std::string& note) {
  if (device == Device::kCpu) return false;
  const Support support = device_decoder_support();
  if (device == Device::kCuda && !support)
    fail(ErrorKind::kUnsupported, "cuda: {}; `rarefy doctor` tells more", support.reason);
  if (!support && device_driver_found()) note = support.reason;
  return support.ok;
}

std::unique_ptr<DeviceDecoder> load_on_device(const Checkpoint& checkpoint,
                                              const ModelConfig& config, DType dtype,
                                              const LoadOptions& options, ThreadPool& pool) {
  DeviceDecoderOptions wanted;
  wanted.dtype = dtype;
  if (!options.workloads.empty()) wanted.tokens = options.workloads.front().n;
  wanted.dense_only = options.formats.size() == 1 && options.formats.front() == format::kDense;
  wanted.measure = options.measure;
  wanted.weight_memory = options.weight_memory;
  try {
    return load_with(wanted, checkpoint, config, options, pool);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kOutOfMemory || !options.weight_memory) throw;
    log_lines(fmt::format("model: second forms of weights are left out: {}", error.what()));
  }
  wanted.weight_memory = 0;
  return load_with(wanted, checkpoint, config, options, pool);
}

}  // namespace model
}  // namespace rarefy
