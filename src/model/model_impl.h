// What a loaded model holds.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/layer.h"
#include "model/workspace.h"
#include "ops/decoder/device_decoder.h"
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
  /// On a GPU: all of the model, in place of layers, embeddings and head.
  std::unique_ptr<DeviceDecoder> device;
  std::string gpu_note;  ///< Why not.
  DType device_dtype = DType::kBF16;

  std::vector<double> frequencies;
  RopeTable rope;
  model::Workspace workspace;

  Impl(const ModelConfig& model_config, ThreadPool& threads);
  /// Angles for positions 0…positions-1.
  void reserve_positions(std::int64_t positions);

  /// That `cache` is one of this model, has room, and lies where the model runs.
  void check_cache(KvCache& cache, std::int64_t more) const;
  /// Rows of `hidden` through all layers; counted in the caches by the caller.
  void run_layers(MatrixRef hidden, std::span<KvCache* const> caches,
                  std::span<const std::int64_t> tokens);
  /// Logits of the rows of `hidden`.
  void run_head(MatrixRef hidden, MatrixRef logits);
  Buffer forward_on_device(std::span<const TokenId> ids, KvCache& cache, bool all,
                           std::int64_t chunk) const;
  void decode_on_device(std::span<const TokenId> ids, std::span<KvCache* const> caches,
                        float* logits, TokenId* best) const;
  Buffer decode_on_cpu(std::span<const TokenId> ids, std::span<KvCache* const> caches);
};

}  // namespace rarefy
