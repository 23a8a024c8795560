#include "model/layer.h"

#include <fmt/format.h>

#include <cmath>
#include <cstddef>

#include "model/staging.h"

namespace rarefy::model {
namespace {

/// Rows [first, first + tokens) of a matrix.
MatrixRef matrix_rows(MatrixRef x, std::int64_t first, std::int64_t tokens) {
  auto* data = static_cast<std::byte*>(x.data) +
               static_cast<std::size_t>(first * x.row_stride) * size_of(x.dtype);
  return {data, x.dtype, tokens, x.cols, x.row_stride};
}

void project(const Projection& projection, const LayerContext& context, ConstMatrixRef x,
             MatrixRef y, ConstMatrixRef residual = {}) {
  if (context.hook != nullptr && *context.hook) (*context.hook)(projection.name, x);
  SpmmArgs args;
  args.b = x;
  args.c = y;
  args.bias = projection.bias.empty() ? nullptr : projection.bias.data();
  args.residual = residual;
  args.precision = context.precision;
  projection.linear.run(args, context.pool);
}

/// RMSNorm of every head by itself: rows of head_dim.
void normalise_heads(MatrixRef x, const std::vector<float>& weight, const LayerContext& context) {
  if (weight.empty()) return;
  const auto dim = static_cast<std::int64_t>(weight.size());
  const MatrixRef heads = matrix_ref(static_cast<float*>(x.data), x.rows * x.cols / dim, dim);
  rms_norm(heads, weight, static_cast<float>(context.config.rms_eps), heads, context.pool);
}

void store_in_cache(ConstMatrixRef x, MatrixRef cache) {
  convert_elements(x.data, x.dtype, cache.data, cache.dtype,
                   static_cast<std::size_t>(x.rows * x.cols));
}

/// Rotates q and k of one sequence's rows, stores its keys and values, and attends to them.
void attend_sequence(std::int64_t index, const LayerContext& context, const SequenceRows& rows,
                     MatrixRef q, MatrixRef k, MatrixRef v, MatrixRef out) {
  const ModelConfig& config = context.config;
  rope(q, config.heads, context.rope, rows.first_position, context.pool);
  rope(k, config.kv_heads, context.rope, rows.first_position, context.pool);
  store_in_cache(k, matrix_rows(rows.keys, rows.first_position, rows.tokens));
  store_in_cache(v, matrix_rows(rows.values, rows.first_position, rows.tokens));

  AttentionArgs args;
  args.q = q;
  args.k = rows.keys;
  args.v = rows.values;
  args.out = out;
  args.heads = config.heads;
  args.kv_heads = config.kv_heads;
  args.head_dim = config.head_dim;
  args.first_position = rows.first_position;
  args.window = index >= config.sliding_first_layer ? config.sliding_window : 0;
  args.scale = 1.0F / std::sqrt(static_cast<float>(config.head_dim));
  attention(args, context.pool);
}

void attend(const DecoderLayer& layer, std::int64_t index, const LayerContext& context,
            MatrixRef hidden, std::span<const SequenceRows> sequences) {
  const ModelConfig& config = context.config;
  const std::int64_t tokens = hidden.rows;
  const MatrixRef normed = context.workspace.normed(tokens);
  const MatrixRef q = context.workspace.q(tokens);
  const MatrixRef k = context.workspace.k(tokens);
  const MatrixRef v = context.workspace.v(tokens);
  const MatrixRef attended = context.workspace.attended(tokens);

  rms_norm(hidden, layer.attention_norm, static_cast<float>(config.rms_eps), normed, context.pool);
  project(layer.projections[DecoderLayer::kQ], context, normed, q);
  project(layer.projections[DecoderLayer::kK], context, normed, k);
  project(layer.projections[DecoderLayer::kV], context, normed, v);
  normalise_heads(q, layer.q_norm, context);
  normalise_heads(k, layer.k_norm, context);
  std::int64_t first = 0;
  for (const SequenceRows& rows : sequences) {
    attend_sequence(index, context, rows, matrix_rows(q, first, rows.tokens),
                    matrix_rows(k, first, rows.tokens), matrix_rows(v, first, rows.tokens),
                    matrix_rows(attended, first, rows.tokens));
    first += rows.tokens;
  }
  project(layer.projections[DecoderLayer::kO], context, attended, hidden, hidden);
}

void feed_forward(const DecoderLayer& layer, const LayerContext& context, MatrixRef hidden) {
  const MatrixRef normed = context.workspace.normed(hidden.rows);
  const MatrixRef gate = context.workspace.gate(hidden.rows);
  const MatrixRef up = context.workspace.up(hidden.rows);
  rms_norm(hidden, layer.mlp_norm, static_cast<float>(context.config.rms_eps), normed,
           context.pool);
  project(layer.projections[DecoderLayer::kGate], context, normed, gate);
  project(layer.projections[DecoderLayer::kUp], context, normed, up);
  swiglu(gate, up, gate, context.pool);
  project(layer.projections[DecoderLayer::kDown], context, gate, hidden, hidden);
}

}  // namespace

std::vector<ProjectionShape> projection_shapes(const ModelConfig& config) {
  const std::int64_t d = config.hidden_size;
  const std::int64_t q = config.heads * config.head_dim;
  const std::int64_t kv = config.kv_heads * config.head_dim;
  const std::int64_t ffn = config.intermediate_size;
  return {
      {"self_attn.q_proj", q, d, config.qkv_bias},  {"self_attn.k_proj", kv, d, config.qkv_bias},
      {"self_attn.v_proj", kv, d, config.qkv_bias}, {"self_attn.o_proj", d, q, config.o_bias},
      {"mlp.gate_proj", ffn, d, config.mlp_bias},   {"mlp.up_proj", ffn, d, config.mlp_bias},
      {"mlp.down_proj", d, ffn, config.mlp_bias}};
}

std::string layer_prefix(std::int64_t layer) {
  return fmt::format("model.layers.{}.", layer);
}

DecoderLayer load_layer_vectors(const Checkpoint& checkpoint, const ModelConfig& config,
                                std::int64_t layer) {
  const std::string prefix = layer_prefix(layer);
  DecoderLayer out;
  out.attention_norm =
      stage_vector(checkpoint, prefix + "input_layernorm.weight", config.hidden_size);
  out.mlp_norm =
      stage_vector(checkpoint, prefix + "post_attention_layernorm.weight", config.hidden_size);
  if (config.qk_norm) {
    out.q_norm = stage_vector(checkpoint, prefix + "self_attn.q_norm.weight", config.head_dim);
    out.k_norm = stage_vector(checkpoint, prefix + "self_attn.k_norm.weight", config.head_dim);
  }
  for (const ProjectionShape& shape : projection_shapes(config)) {
    Projection projection;
    projection.name = prefix + shape.module + ".weight";
    if (shape.bias)
      projection.bias = stage_vector(checkpoint, prefix + shape.module + ".bias", shape.rows);
    out.projections.push_back(std::move(projection));
  }
  return out;
}

void run_layer(const DecoderLayer& layer, std::int64_t index, const LayerContext& context,
               MatrixRef hidden, std::span<const SequenceRows> sequences) {
  attend(layer, index, context, hidden, sequences);
  feed_forward(layer, context, hidden);
}

}  // namespace rarefy::model
