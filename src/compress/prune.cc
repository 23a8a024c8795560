// prune(): a checkpoint in, a checkpoint out, one layer in memory.
#include <cstdlib>  // Says whether there is a glibc.
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <system_error>

#include "base/check.h"
#include "base/peak_memory.h"
#include "compress/calibration.h"
#include "compress/layer_inputs.h"
#include "compress/linear_algebra.h"
#include "compress/magnitude.h"
#include "compress/sparsegpt.h"
#include "compress/targets.h"
#include "compress/wanda.h"
#include "rarefy/compress.h"
#include "rarefy/config.h"
#include "rarefy/model.h"
#include "rarefy/tokenizer.h"

namespace rarefy {
namespace {

using compress::DenseWeight;

bool calibrates(const PruneStep& step) {
  return step.method != PruneMethod::kMagnitude;
}

PruneScope resolved_scope(const PruneStep& step) {
  if (step.scope != PruneScope::kDefault) return step.scope;
  return step.method == PruneMethod::kWanda ? PruneScope::kRow : PruneScope::kTensor;
}

/// The number L of "model.layers.L.…"; nothing for any other name.
std::optional<std::int64_t> layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  std::int64_t layer = 0;
  const char* const end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data(), end, layer);
  const bool fits = error == std::errc() && layer >= 0 && stop != end && *stop == '.';
  return fits ? std::optional(layer) : std::nullopt;
}

/// Bytes of a weight as sparse-bitmask: values, a bit a position, an offset a row, the shape.
std::size_t bitmask_bytes(const RowSource& weight, std::int64_t nnz) {
  return static_cast<std::size_t>(nnz) * size_of(weight.dtype()) +
         static_cast<std::size_t>(weight.rows() * ((weight.cols() + 7) / 8) + weight.rows() * 8 +
                                  16);
}

/// A weight of the checkpoint that lets the kernel drop the pages it was read from every few
/// megabytes: a mapping counts as resident, and a weight is a quarter of a layer.
class FrugalSource final : public RowSource {
 public:
  FrugalSource(std::shared_ptr<const Checkpoint> checkpoint, std::string name)
      : checkpoint_(std::move(checkpoint)),
        name_(std::move(name)),
        source_(checkpoint_->source(name_)) {}
  ~FrugalSource() override { checkpoint_->drop_pages(name_); }
  FrugalSource(const FrugalSource&) = delete;
  FrugalSource& operator=(const FrugalSource&) = delete;
  [[nodiscard]] std::int64_t rows() const override { return source_->rows(); }
  [[nodiscard]] std::int64_t cols() const override { return source_->cols(); }
  [[nodiscard]] DType dtype() const override { return source_->dtype(); }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    constexpr std::size_t kStep = std::size_t{4} << 20;
    source_->read_rows(begin, end, out);
    const std::size_t bytes = static_cast<std::size_t>((end - begin) * cols()) * size_of(dtype());
    const std::size_t before = read_.fetch_add(bytes, std::memory_order_relaxed);
    if (before / kStep != (before + bytes) / kStep) checkpoint_->drop_pages(name_);
  }

 private:
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::string name_;
  std::shared_ptr<const RowSource> source_;
  mutable std::atomic<std::size_t> read_{0};
};

/// Gives back what the allocator keeps of freed weights: blocks below its growing threshold for
/// mappings (up to 32 MiB) stay in its arenas otherwise.
void trim_heap() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

/// From now on blocks of 4 MiB and more are mappings of their own, which go back to the system when
/// they are freed. By default glibc takes the size of what was freed last (up to 32 MiB) as the
/// threshold: weights of a layer then leave holes between those of the next (30 MB of a layer's
/// 122).
void map_large_blocks() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
#endif
}

class PruneJob {
 public:
  PruneJob(const std::filesystem::path& from, const std::filesystem::path& to,
           const PruneOptions& options, ThreadPool& pool)
      : options_(options),
        pool_(pool),
        progress_(options.progress != nullptr ? *options.progress : no_progress()),
        checkpoint_(Checkpoint::open(from)),
        to_(to) {}

  PruneReport run() {
    map_large_blocks();
    reset_peak_resident();  // Else the peak of the process so far counts.
    const auto start = std::chrono::steady_clock::now();
    plan();
    find_global_cuts();
    std::vector<TokenId> tokens;
    std::vector<std::span<const TokenId>> samples;
    if (last_layer_ >= 0) samples = draw_calibration(tokens);
    writer_ = std::make_unique<CheckpointWriter>(
        to_, *checkpoint_, CheckpointWriter::Options{.overwrite = options_.overwrite});
    if (last_layer_ >= 0) prune_layers(samples);
    prune_the_rest();
    writer_->add_file("recipe.yaml", options_.recipe.to_yaml());
    writer_->finish();
    std::sort(report_.tensors.begin(), report_.tensors.end(),
              [this](const PrunedTensor& a, const PrunedTensor& b) {
                return order_.at(a.name) < order_.at(b.name);
              });
    report_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    report_.peak_bytes = peak_resident_bytes().value_or(0);
    return std::move(report_);
  }

 private:
  /// Everything that can be refused is refused here, before a byte is written.
  void plan() {
    const std::vector<PruneStep>& steps = options_.recipe.steps;
    require(!steps.empty(), "prune: expected a recipe with at least one step");
    for (std::size_t i = 0; i < checkpoint_->tensors().size(); ++i)
      order_[checkpoint_->tensors()[i].name] = i;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      check(steps[i]);
      for (const CheckpointTensor* tensor : compress::select_targets(*checkpoint_, steps[i])) {
        const Support fits = steps[i].pattern.fits(tensor->shape[0], tensor->shape[1]);
        require(fits.ok, "{}: {}", tensor->name, fits.reason);
        std::vector<std::size_t>& planned = steps_of_[tensor->name];
        if (steps[i].scope == PruneScope::kGlobal && !planned.empty()) {
          fail(ErrorKind::kUnsupported,
               "{}: a global step cannot follow another on the same weight", tensor->name);
        }
        planned.push_back(i);
        if (calibrates(steps[i])) plan_layer(*tensor, steps[i]);
      }
    }
  }

  static void check(const PruneStep& step) {
    const char* const method = to_string(step.method);
    require(step.sparsity >= 0 && step.sparsity <= 1, "{}: expected a sparsity from 0 to 1, got {}",
            method, step.sparsity);
    require(step.dampening >= 0, "{}: expected a dampening of at least 0, got {}", method,
            step.dampening);
    require(step.block_size > 0, "{}: expected a positive block size, got {}", method,
            step.block_size);
    if (step.scope == PruneScope::kGlobal && calibrates(step)) {
      fail(ErrorKind::kUnsupported,
           "{}: scope global is for magnitude; scores of different layers "
           "of {} do not compare",
           method, method);
    }
    if (step.scope == PruneScope::kGlobal && step.pattern.kind == PrunePattern::Kind::kNm)
      fail(ErrorKind::kUnsupported, "{}: an N:M pattern has no global scope", method);
  }

  /// The decoder layer of a weight that needs calibration inputs.
  void plan_layer(const CheckpointTensor& tensor, const PruneStep& step) {
    const std::string& name = tensor.name;
    const std::optional<std::int64_t> layer = layer_of(name);
    if (!layer) {
      fail(ErrorKind::kUnsupported,
           "{}: {} needs calibration inputs, which are collected in decoder layers only; ignore "
           "this weight or prune it by magnitude",
           name, to_string(step.method));
    }
    last_layer_ = std::max(last_layer_, *layer);
  }

  void find_global_cuts() {
    for (std::size_t i = 0; i < options_.recipe.steps.size(); ++i) {
      const PruneStep& step = options_.recipe.steps[i];
      if (step.scope != PruneScope::kGlobal) continue;
      std::vector<std::shared_ptr<const RowSource>> sources;
      GlobalStep& global = global_[i];
      for (const CheckpointTensor* tensor : compress::select_targets(*checkpoint_, step)) {
        global.index[tensor->name] = sources.size();
        sources.push_back(std::make_shared<FrugalSource>(checkpoint_, tensor->name));
      }
      global.cut = compress::find_global_cut(sources, step.pattern, step.sparsity, pool_);
    }
  }

  std::vector<std::span<const TokenId>> draw_calibration(std::vector<TokenId>& tokens) {
    config_ = ModelConfig::load(checkpoint_->directory());
    const Calibration& calibration = options_.calibration;
    require(!calibration.text.empty(), "prune: {} needs a calibration text",
            to_string(first_calibrated()));
    const std::int64_t context = calibration.context > 0
                                     ? calibration.context
                                     : std::min<std::int64_t>(config_.max_positions, 2048);
    require(context <= config_.max_positions,
            "prune: expected a calibration context of at most {} tokens (the model's), got {}",
            config_.max_positions, context);
    progress_.update("tokenise", 0, 1, "calibration text");
    tokens = Tokenizer::load(checkpoint_->directory())->encode(calibration.text, false);
    progress_.update("tokenise", 1, 1, "calibration text");
    return compress::draw_samples(tokens, calibration.samples, context, calibration.seed);
  }

  [[nodiscard]] PruneMethod first_calibrated() const {
    const std::vector<PruneStep>& steps = options_.recipe.steps;
    return std::find_if(steps.begin(), steps.end(), calibrates)->method;
  }

  void prune_layers(const std::vector<std::span<const TokenId>>& samples) {
    LayerStream stream(checkpoint_, config_, pool_);
    std::vector<Buffer> hidden;
    hidden.reserve(samples.size());
    for (const std::span<const TokenId> ids : samples) hidden.push_back(stream.embed(ids));
    const auto tokens = static_cast<std::int64_t>(samples[0].size());
    for (std::int64_t layer = 0; layer <= last_layer_; ++layer) {
      trim_heap();
      stream.load(layer);
      compress::LayerInputs inputs(tokens * static_cast<std::int64_t>(samples.size()));
      const std::vector<std::string> names = stream.weight_names();
      if (expect_inputs(names, inputs)) observe(stream, hidden, tokens, layer, inputs);
      for (const std::string& name : names) {
        if (!steps_of_.contains(name)) continue;
        stream.release(name);  // One copy of a weight beside the layer, not two.
        std::shared_ptr<const DenseWeight> pruned = prune_weight(name, &inputs);
        if (layer < last_layer_) stream.replace(name, pruned);
        inputs.release(name);
      }
      if (layer == last_layer_) break;
      for (std::size_t i = 0; i < hidden.size(); ++i) {
        stream.forward(matrix_ref(hidden[i].as<float>(), tokens, config_.hidden_size), {});
        report_layer(layer, "propagate", i + 1, hidden.size());
      }
    }
  }

  bool expect_inputs(const std::vector<std::string>& names, compress::LayerInputs& inputs) const {
    bool any = false;
    for (const std::string& name : names) {
      const auto found = steps_of_.find(name);
      if (found == steps_of_.end()) continue;
      for (const std::size_t step : found->second)
        inputs.expect(name, checkpoint_->find(name)->shape[1], options_.recipe.steps[step]);
      any = true;
    }
    return any;
  }

  /// Runs the layer, still dense, on a copy of every sample's hidden states.
  void observe(LayerStream& stream, const std::vector<Buffer>& hidden, std::int64_t tokens,
               std::int64_t layer, compress::LayerInputs& inputs) {
    const compress::SingleThreadedBlas one_thread;
    Buffer scratch(hidden[0].size());
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      std::copy_n(hidden[i].data(), hidden[i].size(), scratch.data());
      stream.forward(matrix_ref(scratch.as<float>(), tokens, config_.hidden_size),
                     [&](std::string_view name, ConstMatrixRef x) { inputs.add(name, x, pool_); });
      report_layer(layer, "observe", i + 1, hidden.size());
    }
  }

  void report_layer(std::int64_t layer, std::string_view what, std::size_t done,
                    std::size_t total) {
    progress_.update(fmt::format("layer {} of {}", layer + 1, last_layer_ + 1),
                     static_cast<std::int64_t>(done), static_cast<std::int64_t>(total), what);
  }

  /// A large matrix goes in pieces whose pages are dropped: embeddings may be as large as a layer.
  void copy(const CheckpointTensor& tensor) {
    constexpr std::size_t kLarge = std::size_t{16} << 20;
    const bool floats =
        tensor.dtype == DType::kF32 || tensor.dtype == DType::kF16 || tensor.dtype == DType::kBF16;
    if (tensor.storage == Storage::kDense && tensor.shape.size() == 2 && floats &&
        tensor.bytes >= kLarge) {
      writer_->add(tensor.name, FrugalSource(checkpoint_, tensor.name), Storage::kDense, pool_);
    } else {
      writer_->copy(tensor.name);
      checkpoint_->drop_pages(tensor.name);
    }
  }

  void prune_the_rest() {
    trim_heap();
    const std::vector<CheckpointTensor>& tensors = checkpoint_->tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const std::string& name = tensors[i].name;
      progress_.update("write", static_cast<std::int64_t>(i),
                       static_cast<std::int64_t>(tensors.size()), name);
      if (written_.contains(name)) continue;
      if (steps_of_.contains(name)) {
        prune_weight(name, nullptr);
      } else {
        copy(tensors[i]);
      }
    }
    progress_.update("write", static_cast<std::int64_t>(tensors.size()),
                     static_cast<std::int64_t>(tensors.size()), "");
  }

  /// Prunes one weight by its steps, writes it, reports it. `inputs` is nullptr outside of
  /// calibrated layers.
  std::shared_ptr<const DenseWeight> prune_weight(const std::string& name,
                                                  compress::LayerInputs* inputs) {
    const FrugalSource source(checkpoint_, name);
    auto weight = std::make_shared<DenseWeight>(name, source, pool_);
    for (const std::size_t step : steps_of_.at(name)) apply(step, *weight, inputs);
    PrunedTensor entry{name, weight->rows(), weight->cols(), weight->nnz(pool_), 0};
    entry.error = inputs != nullptr
                      ? compress::output_error(source, *weight, inputs->sample(name), pool_)
                      : compress::weight_error(source, *weight, pool_);
    report_.tensors.push_back(entry);
    const bool dense = options_.storage == Storage::kSparseBitmask &&
                       bitmask_bytes(*weight, entry.nnz) >= checkpoint_->find(name)->dense_bytes;
    writer_->add(name, *weight, dense ? Storage::kDense : options_.storage, pool_);
    written_.insert(name);
    return weight;
  }

  void apply(std::size_t index, DenseWeight& weight, compress::LayerInputs* inputs) {
    const PruneStep& step = options_.recipe.steps[index];
    if (calibrates(step) && inputs == nullptr) {
      fail(ErrorKind::kUnsupported,
           "{}: {} needs calibration inputs, and no layer of the model reads this weight",
           weight.name(), to_string(step.method));
    }
    const compress::MaskRule rule{step.pattern, resolved_scope(step), step.sparsity};
    switch (step.method) {
      case PruneMethod::kMagnitude:
        if (step.scope == PruneScope::kGlobal) {
          const GlobalStep& global = global_.at(index);
          compress::prune_magnitude(weight, step.pattern, global.cut,
                                    global.index.at(weight.name()), pool_);
        } else {
          compress::prune_magnitude(weight, rule, pool_);
        }
        return;
      case PruneMethod::kWanda:
        compress::prune_wanda(weight, inputs->norms(weight.name()), rule, pool_);
        return;
      case PruneMethod::kSparseGpt:
        compress::prune_sparsegpt(weight, inputs->factor(weight.name(), step, pool_),
                                  {step.pattern, rule.scope, step.sparsity, step.block_size},
                                  pool_);
        return;
    }
  }

  struct GlobalStep {
    compress::GlobalCut cut;
    std::map<std::string, std::size_t> index;
  };

  const PruneOptions& options_;
  ThreadPool& pool_;
  Progress& progress_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::filesystem::path to_;
  ModelConfig config_;
  std::map<std::string, std::size_t> order_;  ///< Place in the checkpoint.
  std::map<std::string, std::vector<std::size_t>> steps_of_;
  std::map<std::size_t, GlobalStep> global_;
  std::int64_t last_layer_ = -1;  ///< The last that needs calibration.
  std::unique_ptr<CheckpointWriter> writer_;
  std::set<std::string> written_;
  PruneReport report_;
};

}  // namespace

PruneReport prune(const std::filesystem::path& from, const std::filesystem::path& to,
                  const PruneOptions& options, ThreadPool& pool) {
  return PruneJob(from, to, options, pool).run();
}

}  // namespace rarefy
