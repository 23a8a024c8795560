// A model one layer at a time.
#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "model/layer.h"
#include "model/rope_frequencies.h"
#include "model/staging.h"
#include "rarefy/model.h"

namespace rarefy {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";

/// Calibration runs whole sequences: dense tiles, which matrix units multiply fastest, in the
/// weight's own dtype. The kernel is the default one, without a plan.
FormatSpec dense_format(const RowSource& weight) {
  const FormatSpec tiles = format::dense_tiles(16, weight.dtype() == DType::kF32 ? 16 : 32);
  return can_pack(tiles, weight.rows(), weight.cols(), weight.dtype()) ? tiles : format::kDense;
}

/// By counting, for the tokens of a sample, on a machine of ordinary ceilings.
double counted_us(const FormatSpec& spec, const PatternStats& pattern, DType dtype, int threads) {
  constexpr MachineCeilings kOrdinary{.dram_gb_per_s = 20, .cache_gb_per_s = 100, .ghz = 2.5};
  constexpr std::int64_t kTokens = 256;
  const SpmmProblem problem{
      .m = pattern.rows, .k = pattern.cols, .n = kTokens, .weight = dtype, .threads = threads};
  double best = std::numeric_limits<double>::infinity();
  for (const SpmmKernel* kernel : spmm_kernels()) {
    if (kernel->supports(spec, problem))
      best = std::min(best, roofline(*kernel, spec, pattern, problem, kOrdinary).floor_us());
  }
  return best;
}

/// What a pruned weight is kept in: a bitmap where that runs about as fast as dense tiles and is
/// clearly smaller, because pruning holds a layer, a weight of it as rows, and this.
FormatSpec pruned_format(const RowSource& weight, ThreadPool& pool) {
  constexpr double kAsFast = 1.25;
  constexpr double kSmaller = 0.75;
  const FormatSpec dense = dense_format(weight);
  const DType dtype = weight.dtype();
  if (!can_pack(format::kBitmap, weight.rows(), weight.cols(), dtype)) return dense;
  const PatternStats pattern = pattern_stats(weight, pool);
  const bool smaller =
      static_cast<double>(estimate_packed_bytes(format::kBitmap, pattern, dtype)) <
      kSmaller * static_cast<double>(estimate_packed_bytes(format::kDense, pattern, dtype));
  const bool as_fast = counted_us(format::kBitmap, pattern, dtype, pool.size()) <
                       kAsFast * counted_us(dense, pattern, dtype, pool.size());
  return smaller && as_fast ? format::kBitmap : dense;
}

Linear unplanned_linear(const RowSource& weight, const FormatSpec& spec, ThreadPool& pool) {
  Plan plan;
  plan.format = spec;
  return {pack(weight, spec, pool), std::move(plan)};
}

}  // namespace

struct LayerStream::Impl {
  std::shared_ptr<const Checkpoint> checkpoint;
  ModelConfig config;
  ThreadPool& pool;
  model::Workspace workspace;
  std::vector<double> frequencies;
  RopeTable rope;
  model::DecoderLayer layer;
  std::int64_t index = -1;
  Buffer keys, values;  ///< Of the sequence that runs; rows as many as rope has positions.

  Impl(std::shared_ptr<const Checkpoint> from, const ModelConfig& model_config, ThreadPool& threads)
      : checkpoint(std::move(from)),
        config(model_config),
        pool(threads),
        workspace(config),
        frequencies(model::rope_frequencies(config.rope, config.head_dim)),
        rope(frequencies, 0) {}

  [[nodiscard]] std::int64_t kv_width() const { return config.kv_heads * config.head_dim; }

  /// Index of a weight of the loaded layer.
  [[nodiscard]] std::size_t place_of(const std::string& name) const {
    const auto found = std::find_if(layer.projections.begin(), layer.projections.end(),
                                    [&](const model::Projection& p) { return p.name == name; });
    require(found != layer.projections.end(), "layer stream: {} is not a weight of layer {}", name,
            index);
    return static_cast<std::size_t>(found - layer.projections.begin());
  }

  void reserve(std::int64_t tokens) {
    workspace.reserve(tokens);
    if (tokens <= rope.positions()) return;
    rope = RopeTable(frequencies, tokens);
    const std::size_t bytes = static_cast<std::size_t>(tokens * kv_width()) * sizeof(float);
    keys = Buffer(bytes);
    values = Buffer(bytes);
  }
};

LayerStream::LayerStream(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
                         ThreadPool& pool)
    : impl_(std::make_unique<Impl>(std::move(checkpoint), config, pool)) {}

LayerStream::~LayerStream() = default;

Buffer LayerStream::embed(std::span<const TokenId> ids) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  Buffer hidden(ids.size() * static_cast<std::size_t>(impl_->config.hidden_size) * sizeof(float));
  embedding(*impl_->checkpoint->source(kEmbedding), ids,
            matrix_ref(hidden.as<float>(), tokens, impl_->config.hidden_size), impl_->pool);
  return hidden;
}

void LayerStream::load(std::int64_t layer) {
  Impl& s = *impl_;
  require(layer >= 0 && layer < s.config.layers, "layer stream: expected a layer of 0…{}, got {}",
          s.config.layers - 1, layer);
  s.layer = {};  // the one before goes first
  s.index = -1;
  model::DecoderLayer next = model::load_layer_vectors(*s.checkpoint, s.config, layer);
  const auto shapes = model::projection_shapes(s.config);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    model::Projection& projection = next.projections[i];
    const auto source =
        model::stream_weight(s.checkpoint, projection.name, shapes[i].rows, shapes[i].cols);
    projection.linear = unplanned_linear(*source, dense_format(*source), s.pool);
  }
  s.layer = std::move(next);
  s.index = layer;
}

std::vector<std::string> LayerStream::weight_names() const {
  std::vector<std::string> names;
  for (const model::Projection& projection : impl_->layer.projections)
    names.push_back(projection.name);
  return names;
}

void LayerStream::release(const std::string& name) {
  impl_->layer.projections[impl_->place_of(name)].linear = {};
}

void LayerStream::replace(const std::string& name, const std::shared_ptr<const RowSource>& weight) {
  const std::size_t place = impl_->place_of(name);
  const model::ProjectionShape shape = model::projection_shapes(impl_->config)[place];
  require(weight != nullptr && weight->rows() == shape.rows && weight->cols() == shape.cols,
          "layer stream: {}: expected {}x{}, got {}x{}", name, shape.rows, shape.cols,
          weight == nullptr ? 0 : weight->rows(), weight == nullptr ? 0 : weight->cols());
  impl_->layer.projections[place].linear =
      unplanned_linear(*weight, pruned_format(*weight, impl_->pool), impl_->pool);
}

void LayerStream::forward(MatrixRef hidden, const LinearHook& hook) {
  Impl& s = *impl_;
  require(s.index >= 0, "layer stream: forward: expected a loaded layer");
  for (const model::Projection& projection : s.layer.projections) {
    require(static_cast<bool>(projection.linear), "layer stream: forward: {} was released",
            projection.name);
  }
  require(hidden.dtype == DType::kF32 && hidden.cols == s.config.hidden_size,
          "layer stream: hidden: expected f32 of {} columns, got {} of {}", s.config.hidden_size,
          to_string(hidden.dtype), hidden.cols);
  s.reserve(hidden.rows);
  const model::LayerContext context{s.config, s.rope,      Precision::kExact,
                                    s.pool,   s.workspace, hook ? &hook : nullptr};
  const std::int64_t positions = s.rope.positions();
  const model::SequenceRows rows{
      .tokens = hidden.rows,
      .keys = matrix_ref(s.keys.as<float>(), positions, s.kv_width()),
      .values = matrix_ref(s.values.as<float>(), positions, s.kv_width())};
  model::run_layer(s.layer, s.index, context, hidden, {&rows, 1});
}

}  // namespace rarefy
