#include <algorithm>
#include <limits>

#include "base/check.h"
#include "model/load.h"
#include "model/load_on_device.h"
#include "model/model_impl.h"
#include "model/rope_frequencies.h"
#include "model/staging.h"

namespace rarefy {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";
/// Tokens of a prompt at once, unless told otherwise: activations that stay in the caches; enough
/// for expanding weights to cost little.
constexpr std::int64_t kCpuChunk = 512, kDeviceChunk = 2048;

template <class T>
std::size_t bytes_of(const std::vector<T>& values) {
  return values.size() * sizeof(T);
}

std::size_t vector_bytes(const Model::Impl& m) {
  std::size_t bytes = bytes_of(m.final_norm);
  for (const model::DecoderLayer& layer : m.layers) {
    bytes += bytes_of(layer.attention_norm) + bytes_of(layer.mlp_norm) + bytes_of(layer.q_norm) +
             bytes_of(layer.k_norm);
    for (const model::Projection& projection : layer.projections)
      bytes += bytes_of(projection.bias);
  }
  return bytes;
}

std::vector<model::WeightJob> weight_jobs(Model::Impl& m) {
  std::vector<model::WeightJob> jobs;
  const auto shapes = model::projection_shapes(m.config);
  for (model::DecoderLayer& layer : m.layers) {
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      model::Projection& projection = layer.projections[i];
      jobs.push_back({&projection, projection.name, shapes[i].rows, shapes[i].cols});
    }
  }
  jobs.push_back({&m.head, m.head.name, m.config.vocab_size, m.config.hidden_size});
  return jobs;
}

/// Whether what went wrong on a GPU leaves the CPU to be tried: a model that does not fit, a shape
/// or a kernel that does not work there; but not a damaged checkpoint, nor a budget that is too
/// small.
bool cpu_may_do(ErrorKind kind, const LoadOptions& options) {
  if (options.device != Device::kAuto) return false;
  const bool has_budget = options.memory_budget != std::numeric_limits<std::size_t>::max();
  return kind == ErrorKind::kUnsupported || kind == ErrorKind::kInternal ||
         (kind == ErrorKind::kOutOfMemory && !has_budget);
}

void check_ids(std::span<const TokenId> ids, std::int64_t vocab) {
  for (const TokenId id : ids)
    require(id >= 0 && id < vocab, "model: token ids: expected 0…{}, got {}", vocab - 1, id);
}

}  // namespace

Model::Impl::Impl(const ModelConfig& model_config, ThreadPool& threads)
    : config(model_config),
      pool(threads),
      frequencies(model::rope_frequencies(config.rope, config.head_dim)),
      rope(frequencies, 0),
      workspace(config) {}

void Model::Impl::reserve_positions(std::int64_t positions) {
  constexpr std::int64_t kFewest = 1024;
  if (positions <= rope.positions()) return;
  rope = RopeTable(frequencies, std::max({positions, 2 * rope.positions(), kFewest}));
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

std::unique_ptr<Model> Model::load(const std::filesystem::path& directory, Planner& planner,
                                   const LoadOptions& options, ThreadPool& pool) {
  return load(ModelConfig::load(directory), Checkpoint::open(directory), planner, options, pool);
}

std::unique_ptr<Model> Model::load(const ModelConfig& config,
                                   std::shared_ptr<const Checkpoint> given, Planner& planner,
                                   const LoadOptions& options, ThreadPool& pool) {
  require(!options.weight_memory || (*options.weight_memory >= 0 &&
                                     *options.weight_memory < std::numeric_limits<double>::max()),
          "model: weight_memory: expected a share of the dense weights from 0 on, got {}",
          options.weight_memory.value_or(0));
  auto m = std::make_unique<Impl>(config, pool);
  m->precision = options.precision;
  m->checkpoint = std::move(given);
  const Checkpoint& checkpoint = *m->checkpoint;
  if (model::runs_on_device(options.device, m->gpu_note)) {
    m->device_dtype = options.device_dtype.value_or(m->config.dtype);
    try {
      m->device = model::load_on_device(checkpoint, m->config, m->device_dtype, options, pool);
    } catch (const Error& error) {
      if (!cpu_may_do(error.kind(), options)) throw;
      m->gpu_note = error.what();
    }
  }
  if (m->device != nullptr) {
    m->weight_bytes = m->device->weight_bytes();
    m->dense_weight_bytes =
        static_cast<std::size_t>(m->config.parameters()) * size_of(m->device_dtype);
    return std::unique_ptr<Model>(new Model(std::move(m)));
  }
  for (std::int64_t layer = 0; layer < m->config.layers; ++layer)
    m->layers.push_back(model::load_layer_vectors(checkpoint, m->config, layer));
  m->final_norm = model::stage_vector(checkpoint, "model.norm.weight", m->config.hidden_size);
  const bool tied = m->config.tied_embeddings;
  m->head.name = tied ? kEmbedding : kHead;

  const std::vector<model::WeightJob> jobs = weight_jobs(*m);
  model::load_weights(checkpoint, jobs, planner, options, pool);
  if (tied) {
    m->embeddings = checkpoint.source(kEmbedding);
  } else {
    m->embeddings = model::stage_weight(checkpoint, kEmbedding, m->config.vocab_size,
                                        m->config.hidden_size, pool);
    checkpoint.drop_pages(kEmbedding);  // rows come back as they are needed
  }

  std::size_t common = vector_bytes(*m);
  if (!tied) common += checkpoint.find(kEmbedding)->dense_bytes;
  m->dense_weight_bytes = common + model::dense_bytes(checkpoint, jobs);
  m->weight_bytes = common;
  for (const model::WeightJob& job : jobs)
    m->weight_bytes += job.projection->linear.matrix().bytes();
  return std::unique_ptr<Model>(new Model(std::move(m)));
}

const ModelConfig& Model::config() const {
  return impl_->config;
}

ThreadPool& Model::pool() const {
  return impl_->pool;
}

std::vector<DeviceWeight> Model::device_weights() const {
  return impl_->device != nullptr ? impl_->device->weights() : std::vector<DeviceWeight>();
}

std::string Model::gpu() const {
  return impl_->device != nullptr ? impl_->device->device_name() : std::string();
}

std::vector<DeviceStepPart> Model::time_step(std::int64_t sequences, std::int64_t position) const {
  return impl_->device != nullptr ? impl_->device->time_step(sequences, position)
                                  : std::vector<DeviceStepPart>();
}

std::string Model::gpu_note() const {
  return impl_->gpu_note;
}

DType Model::kv_dtype() const {
  return impl_->device != nullptr ? impl_->device_dtype : DType::kF32;
}

std::vector<ModelWeight> Model::weights() const {
  std::vector<ModelWeight> all;
  if (impl_->device != nullptr) return all;
  for (const model::DecoderLayer& layer : impl_->layers) {
    for (const model::Projection& projection : layer.projections)
      all.push_back({projection.name, &projection.linear});
  }
  all.push_back({impl_->head.name, &impl_->head.linear});
  return all;
}

std::size_t Model::weight_bytes() const {
  return impl_->weight_bytes;
}

std::size_t Model::dense_weight_bytes() const {
  return impl_->dense_weight_bytes;
}

void Model::Impl::check_cache(KvCache& cache, std::int64_t more) const {
  require(cache.layers() == config.layers && cache.width() == config.kv_heads * config.head_dim,
          "model: cache: expected {} layers of {}, got {} of {}", config.layers,
          config.kv_heads * config.head_dim, cache.layers(), cache.width());
  require(cache.size() + more <= cache.capacity(),
          "model: cache: expected room for {} tokens after {}, got a capacity of {}", more,
          cache.size(), cache.capacity());
  if (cache.size() == 0) {
    // An empty cache goes where the model is.
    if (device == nullptr) cache.on_device.reset();
    if (device != nullptr && cache.on_device == nullptr)
      cache.on_device = device->make_kv(cache.capacity(), cache.dtype());
  }
  require((cache.on_device != nullptr) == (device != nullptr),
          "model: cache: expected one that this model filled, got one of another device");
}

void Model::Impl::run_layers(MatrixRef hidden, std::span<KvCache* const> caches,
                             std::span<const std::int64_t> tokens) {
  const model::LayerContext context{config, rope, precision, pool, workspace};
  std::vector<model::SequenceRows> rows(caches.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto layer = static_cast<std::int64_t>(i);
    for (std::size_t s = 0; s < caches.size(); ++s)
      rows[s] = {tokens[s], caches[s]->size(), caches[s]->keys(layer), caches[s]->values(layer)};
    model::run_layer(layers[i], layer, context, hidden, rows);
  }
}

void Model::Impl::run_head(MatrixRef hidden, MatrixRef logits) {
  const MatrixRef normed = workspace.normed(hidden.rows);
  rms_norm(hidden, final_norm, static_cast<float>(config.rms_eps), normed, pool);
  SpmmArgs args;
  args.b = normed;
  args.c = logits;
  args.precision = precision;
  head.linear.run(args, pool);
}

Buffer Model::forward(std::span<const TokenId> ids, KvCache& cache, Logits which,
                      std::int64_t chunk) {
  Impl& m = *impl_;
  const auto total = static_cast<std::int64_t>(ids.size());
  const std::int64_t vocab = m.config.vocab_size;
  require(total > 0, "model: token ids: expected at least one, got none");
  require(chunk >= 0, "model: chunk: expected at least one token, got {}", chunk);
  if (chunk == 0) chunk = m.device != nullptr ? kDeviceChunk : kCpuChunk;
  check_ids(ids, vocab);
  m.check_cache(cache, total);
  if (m.device != nullptr) return m.forward_on_device(ids, cache, which == Logits::kAll, chunk);
  m.reserve_positions(cache.size() + total);
  m.workspace.reserve(std::min(chunk, total));

  const std::int64_t rows = which == Logits::kAll ? total : 1;
  Buffer logits(static_cast<std::size_t>(rows * vocab) * sizeof(float));
  for (std::int64_t begin = 0; begin < total; begin += chunk) {
    const std::int64_t tokens = std::min(chunk, total - begin);
    const MatrixRef hidden = m.workspace.hidden(tokens);
    embedding(*m.embeddings,
              ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(tokens)),
              hidden, m.pool);
    KvCache* const caches[] = {&cache};
    m.run_layers(hidden, caches, {&tokens, 1});
    cache.append(tokens);

    const bool last = begin + tokens == total;
    if (which == Logits::kLast && !last) continue;
    const std::int64_t first = which == Logits::kAll ? 0 : tokens - 1;
    m.run_head(matrix_ref(hidden.row<float>(first), tokens - first, hidden.cols),
               matrix_ref(logits.as<float>() + (which == Logits::kAll ? begin * vocab : 0),
                          tokens - first, vocab));
  }
  return logits;
}

}  // namespace rarefy
