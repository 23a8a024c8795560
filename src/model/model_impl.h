// What a loaded model holds.
#pragma once

#include <memory>
#include <vector>

#include "model/layer.h"
#include "model/workspace.h"
#include "rarefy/model.h"

namespace rarefy {

struct Model::Impl {
  ModelConfig config;
  ThreadPool& pool;
  Precision precision = Precision::kExact;
  std::shared_ptr<const Checkpoint> checkpoint;
  std::shared_ptr<const RowSource> embeddings;  ///< Rows of the mapped file.
  std::vector<model::DecoderLayer> layers;
  std::vector<float> final_norm;
  model::Projection head;  ///< Made of the embeddings when they are tied.
  std::size_t weight_bytes = 0, dense_weight_bytes = 0;

  std::vector<double> frequencies;
  RopeTable rope;
  model::Workspace workspace;

  Impl(const ModelConfig& model_config, ThreadPool& threads);
  /// Angles for positions 0…positions-1.
  void reserve_positions(std::int64_t positions);
};

}  // namespace rarefy
