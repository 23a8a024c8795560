// One decoder layer: attention and a gated feed-forward network, each on a normalised copy of the
// hidden states, each added back to them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/workspace.h"
#include "rarefy/config.h"
#include "rarefy/model.h"
#include "rarefy/planner.h"
#include "rarefy/transformer_ops.h"

namespace rarefy::model {

/// A linear weight with its bias (empty where the family has none).
struct Projection {
  std::string name;
  Linear linear;
  std::vector<float> bias;
};

/// Shape and place of a linear weight in the layer's run.
struct ProjectionShape {
  const char* module;  ///< "self_attn.q_proj"
  std::int64_t rows, cols;
  bool bias;
};

/// q, k, v, o, gate, up, down: the order in which they run.
std::vector<ProjectionShape> projection_shapes(const ModelConfig& config);

struct DecoderLayer {
  enum Place : std::uint8_t { kQ, kK, kV, kO, kGate, kUp, kDown, kPlaces };
  std::vector<Projection> projections;  ///< kPlaces of them.
  std::vector<float> attention_norm, mlp_norm;
  std::vector<float> q_norm, k_norm;  ///< Of head_dim; empty where the family has none.
};

std::string layer_prefix(std::int64_t layer);  ///< "model.layers.3."

/// Everything of layer `layer` but its linear weights.
DecoderLayer load_layer_vectors(const Checkpoint& checkpoint, const ModelConfig& config,
                                std::int64_t layer);

/// What a layer runs in: the same for all layers of a model.
struct LayerContext {
  const ModelConfig& config;
  const RopeTable& rope;
  Precision precision;
  ThreadPool& pool;
  Workspace& workspace;
  const LinearHook* hook = nullptr;
};

/// The next rows of the hidden states that belong to one sequence, at positions first_position….
/// Their keys and values are written to rows first_position… of `keys` and `values`, where those
/// before already lie.
struct SequenceRows {
  std::int64_t tokens = 0, first_position = 0;
  MatrixRef keys, values;
};

/// Runs `hidden` (T×D f32, in place), the rows of one sequence after the other.
void run_layer(const DecoderLayer& layer, std::int64_t index, const LayerContext& context,
               MatrixRef hidden, std::span<const SequenceRows> sequences);

}  // namespace rarefy::model
