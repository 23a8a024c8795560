// The executor: a decoder's layers as launches on one stream, decode steps as recorded graphs.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/check.h"
#include "cuda/compiler.h"
#include "cuda/cublas.h"
#include "cuda/driver.h"
#include "cuda/timing.h"
#include "ops/attention/cuda/place.h"
#include "ops/decoder/cuda/kernels.h"
#include "ops/decoder/cuda/weights.h"
#include "ops/decoder/device_decoder.h"
#include "ops/spmm/cuda/converted_rows.h"
#include "rarefy/transformer_ops.h"

namespace rarefy {
namespace {

using gpu::Address;

/// Grows in powers of two, so that angles are rarely computed anew.
constexpr std::int64_t kFewestPositions = 4096;

class CudaKv final : public DeviceKv {
 public:
  CudaKv(std::shared_ptr<const cuda::Stream> stream, const DecoderShape& shape,
         std::int64_t capacity, DType dtype)
      : stream_(std::move(stream)),
        dtype_(dtype),
        capacity_(capacity),
        memory_(*stream_, static_cast<std::size_t>(2 * shape.layers * capacity * shape.kv_heads *
                                                   shape.head_dim) *
                              size_of(dtype)) {}
  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] gpu::Place place(std::int32_t token, std::int64_t position) const {
    return {.memory = memory_.address(),
            .capacity = static_cast<std::int32_t>(capacity_),
            .position = static_cast<std::int32_t>(position),
            .token = token};
  }
  [[nodiscard]] std::int64_t capacity() const { return capacity_; }
  void clear() const { cuda::fill_bytes(*stream_, memory_.address(), 0, memory_.size()); }

 private:
  std::shared_ptr<const cuda::Stream> stream_;  // Frees the memory, perhaps after the decoder.
  DType dtype_;
  std::int64_t capacity_;
  cuda::DeviceBuffer memory_;
};

/// What flows through the layers for up to `rows` tokens at once.
struct Activations {
  std::int64_t rows = 0;
  cuda::DeviceBuffer places, hidden, normed, qkv, attended, delta, gate_up, gated, scratch;

  Activations() = default;
  Activations(const cuda::Stream& stream, const DecoderShape& s, DType dtype, std::int64_t count,
              std::size_t scratch_bytes)
      : rows(count) {
    const auto values = [&](std::int64_t width, std::size_t size) {
      return cuda::DeviceBuffer(stream, static_cast<std::size_t>(count * width) * size);
    };
    const std::size_t size = size_of(dtype);
    places = values(1, sizeof(gpu::Place));
    hidden = values(s.hidden, sizeof(float));
    normed = values(s.hidden, size);
    qkv = values((s.heads + 2 * s.kv_heads) * s.head_dim, size);
    attended = values(s.heads * s.head_dim, size);
    delta = values(s.hidden, size);
    gate_up = values(2 * s.ffn, size);
    gated = values(s.ffn, size);
    scratch = cuda::DeviceBuffer(stream, scratch_bytes);
    cuda::fill_bytes(stream, scratch.address(), 0, scratch_bytes);
  }
};

struct Layer {
  std::unique_ptr<gpu::Operator> qkv, o, gate_up, down;
  cuda::DeviceBuffer attention_norm, mlp_norm, q_norm, k_norm;
  cuda::DeviceBuffer qkv_bias, o_bias, gate_up_bias, down_bias;
};

/// The smallest batch that a graph is recorded for and that holds `sequences`.
std::int64_t bucket_of(std::int64_t sequences) {
  std::int64_t bucket = 1;
  while (bucket < sequences) bucket *= 2;
  return bucket;
}

class CudaDecoder final : public DeviceDecoder {
 public:
  CudaDecoder(const DecoderShape& shape, const DeviceDecoderOptions& options, ThreadPool& pool)
      : shape_(shape),
        options_(options),
        pool_(pool),
        shared_stream_(std::make_shared<const cuda::Stream>(cuda::Device::get())),
        stream_(*shared_stream_),
        kernels_(stream_.device(), shape_, options.dtype),
        maker_(stream_, options, pool) {}

  ~CudaDecoder() override {
    // Graphs and buffers may not go while the device works with them.
    try {
      stream_.synchronize();
    } catch (const Error&) {
      return;  // It was reported by the call that failed.
    }
  }

  void add_layer(const DeviceLayerWeights& given) override {
    Layer layer;
    layer.qkv = make(*given.qkv, "qkv");
    layer.o = make(*given.o, "o");
    layer.gate_up = make(*given.gate_up, "gate_up");
    layer.down = make(*given.down, "down");
    layer.attention_norm = vector(given.attention_norm);
    layer.mlp_norm = vector(given.mlp_norm);
    layer.q_norm = vector(given.q_norm);
    layer.k_norm = vector(given.k_norm);
    layer.qkv_bias = vector(given.qkv_bias);
    layer.o_bias = vector(given.o_bias);
    layer.gate_up_bias = vector(given.gate_up_bias);
    layer.down_bias = vector(given.down_bias);
    layers_.push_back(std::move(layer));
  }

  void finish(const RowSource& embeddings, std::span<const float> final_norm,
              const RowSource* head) override {
    embeddings_ = gpu::upload_rows(stream_, gpu::ConvertedRows(embeddings, options_.dtype), pool_);
    bytes_ += embeddings_.size();
    final_norm_ = vector(final_norm);
    if (head != nullptr) {
      head_ = make(*head, "head", DType::kF32);
      return;
    }
    head_ = std::make_unique<gpu::TableProduct>(embeddings_.address(),
                                                cuda::DenseProblem{.m = shape_.vocab,
                                                                   .k = shape_.hidden,
                                                                   .weight = options_.dtype,
                                                                   .output = DType::kF32});
    weights_.push_back({.name = "head",
                        .kernel = "dense.cublaslt (the embeddings)",
                        .rows = shape_.vocab,
                        .cols = shape_.hidden});
  }

  [[nodiscard]] const std::vector<DeviceWeight>& weights() const override { return weights_; }
  [[nodiscard]] std::size_t weight_bytes() const override { return bytes_; }
  [[nodiscard]] std::string device_name() const override { return stream_.device().facts().name; }

  [[nodiscard]] std::shared_ptr<DeviceKv> make_kv(std::int64_t capacity, DType dtype) override {
    return std::make_shared<CudaKv>(shared_stream_, shape_, capacity, dtype);
  }

  void prefill(std::span<const std::int32_t> ids, DeviceKv& given, std::int64_t first_position,
               bool all, float* logits) override {
    auto& kv = dynamic_cast<CudaKv&>(given);
    const auto rows = static_cast<std::int64_t>(ids.size());
    if (rows > prefill_.rows) prefill_ = Activations(stream_, shape_, options_.dtype, rows, 0);
    reserve_positions(first_position + rows);
    std::vector<gpu::Place> places;
    for (std::int64_t t = 0; t < rows; ++t)
      places.push_back(kv.place(ids[static_cast<std::size_t>(t)], first_position + t));
    cuda::copy_to_device(stream_, prefill_.places.address(), places.data(),
                         places.size() * sizeof(gpu::Place));
    run_layers(prefill_, rows, kv.dtype(), /*one_sequence=*/true);
    if (logits != nullptr) {
      const std::int64_t first = all ? 0 : rows - 1;
      const std::size_t bytes =
          static_cast<std::size_t>((rows - first) * shape_.vocab) * sizeof(float);
      if (bytes > prefill_logits_.size()) prefill_logits_ = cuda::DeviceBuffer(stream_, bytes);
      run_head(prefill_, first, rows, prefill_logits_.address());
      cuda::copy_to_host(stream_, logits, prefill_logits_.address(), bytes);
    }
    stream_.synchronize();
  }

  void decode(std::span<const Step> steps, float* logits, std::int32_t* best) override {
    require(!steps.empty(), "GPU: decode: expected at least one sequence");
    const auto sequences = static_cast<std::int64_t>(steps.size());
    const DType kv = dynamic_cast<CudaKv&>(*steps.front().kv).dtype();
    std::int64_t positions = 0;
    for (const Step& step : steps) positions = std::max(positions, step.position + 1);
    reserve_positions(positions);
    Recorded& recorded = recorded_for(bucket_of(sequences), kv);
    auto* places = reinterpret_cast<gpu::Place*>(recorded.host_places.data());
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const auto& cache = dynamic_cast<const CudaKv&>(*steps[i].kv);
      require(cache.dtype() == kv, "GPU: decode: expected caches of one dtype, got {} and {}",
              to_string(kv), to_string(cache.dtype()));
      places[i] = cache.place(steps[i].token, steps[i].position);
    }
    for (std::int64_t i = sequences; i < recorded.activations.rows; ++i) places[i] = {};
    cuda::copy_to_device(stream_, recorded.activations.places.address(), places,
                         recorded.host_places.size());
    (best != nullptr ? recorded.greedy : recorded.graph)->launch(stream_);
    if (logits != nullptr) {
      cuda::copy_to_host(stream_, recorded.host_logits(stream_.device()), recorded.logits.address(),
                         steps.size() * static_cast<std::size_t>(shape_.vocab) * sizeof(float));
    }
    stream_.synchronize();
    if (best != nullptr)
      std::memcpy(best, recorded.ids.data(), steps.size() * sizeof(std::int32_t));
    if (logits != nullptr)
      std::memcpy(logits, recorded.host_logits(stream_.device()),
                  steps.size() * static_cast<std::size_t>(shape_.vocab) * sizeof(float));
  }

  std::vector<DeviceStepPart> time_step(std::int64_t sequences, std::int64_t position) override {
    require(sequences > 0 && position >= 0, "GPU: time_step: expected at least one sequence");
    reserve_positions(position + 1);
    Recorded step(stream_, shape_, options_.dtype, sequences, kernels_.decode_scratch(sequences));
    std::vector<CudaKv> caches;
    std::vector<gpu::Place> places;
    for (std::int64_t i = 0; i < sequences; ++i) {
      caches.emplace_back(shared_stream_, shape_, position + 1, options_.dtype);
      caches.back().clear();
      places.push_back(caches.back().place(1, position));
    }
    cuda::copy_to_device(stream_, step.activations.places.address(), places.data(),
                         places.size() * sizeof(gpu::Place));
    const auto time_us = [&] {
      const auto enqueue = [&] {
        run_layers(step.activations, sequences, options_.dtype, /*one_sequence=*/false);
        run_head(step.activations, 0, sequences, step.logits.address());
      };
      enqueue();  // Whatever allocates at its first use does so before the recording.
      stream_.synchronize();
      return cuda::time_calls(stream_, [&](int) { enqueue(); }, {.calls = 2}).median_us;
    };
    const auto layers = static_cast<std::int64_t>(layers_.size());
    std::vector<DeviceStepPart> parts{{"all", 0, time_us()}};
    for (const Part& part : kParts) {
      without_ = part.kind;
      const std::int64_t launches = part.of_layer * layers + part.of_step;
      parts.front().launches += launches;
      parts.push_back({part.name, launches, parts.front().us - time_us()});
    }
    without_ = Kind::kNothing;
    return parts;
  }

 private:
  /// Kinds of kernels of a step, for time_step.
  enum class Kind : std::uint8_t {
    kNothing,
    kEmbedding,
    kNorm,
    kQkv,
    kAttention,
    kO,
    kGateUp,
    kSwiglu,
    kDown,
    kHead
  };
  struct Part {
    Kind kind;
    const char* name;
    std::int64_t of_layer, of_step;  ///< Launches.
  };
  static constexpr Part kParts[] = {{Kind::kEmbedding, "embedding", 0, 1},
                                    {Kind::kNorm, "norm", 2, 1},
                                    {Kind::kQkv, "qkv", 1, 0},
                                    {Kind::kAttention, "attention", 1, 0},
                                    {Kind::kO, "o", 1, 0},
                                    {Kind::kGateUp, "gate_up", 1, 0},
                                    {Kind::kSwiglu, "swiglu", 1, 0},
                                    {Kind::kDown, "down", 1, 0},
                                    {Kind::kHead, "head", 0, 1}};

  /// A decode step of one batch size, and the memory that it works in.
  struct Recorded {
    Activations activations;
    cuda::DeviceBuffer logits;
    cuda::PinnedBuffer host_places, ids;  ///< The device writes ids where the host reads them.
    std::optional<cuda::PinnedBuffer> pinned_logits;  ///< Made when logits are first asked for.
    std::optional<cuda::Graph> graph, greedy;         ///< The second with the likeliest tokens.

    Recorded(const cuda::Stream& stream, const DecoderShape& shape, DType dtype, std::int64_t rows,
             std::size_t scratch)
        : activations(stream, shape, dtype, rows, scratch),
          logits(stream, static_cast<std::size_t>(rows * shape.vocab) * sizeof(float)),
          host_places(stream.device(), static_cast<std::size_t>(rows) * sizeof(gpu::Place)),
          ids(stream.device(), static_cast<std::size_t>(rows) * sizeof(std::int32_t)) {}

    std::byte* host_logits(const cuda::Device& device) {
      if (!pinned_logits) pinned_logits.emplace(device, logits.size());
      return pinned_logits->data();
    }
  };

  std::unique_ptr<gpu::Operator> make(const RowSource& weight, const char* what,
                                      std::optional<DType> output = {}) {
    DeviceWeight info;
    info.name = std::string_view(what) == "head" ? std::string(what)
                                                 : fmt::format("layer {} {}", layers_.size(), what);
    auto op = maker_.make(weight, output.value_or(options_.dtype), info);
    bytes_ += info.bytes;
    weights_.push_back(std::move(info));
    return op;
  }

  cuda::DeviceBuffer vector(std::span<const float> values) {
    if (values.empty()) return {};
    bytes_ += values.size_bytes();
    cuda::DeviceBuffer buffer = cuda::upload(stream_, values);
    stream_.synchronize();
    return buffer;
  }

  /// Angles for positions 0…positions-1. Recorded graphs know where the old ones lay, and go.
  void reserve_positions(std::int64_t positions) {
    if (positions <= positions_) return;
    stream_.synchronize();
    recorded_.clear();
    positions_ = std::max({positions, 2 * positions_, kFewestPositions});
    const RopeTable table(shape_.rope_frequencies, positions_);
    const auto count = static_cast<std::size_t>(positions_ * shape_.head_dim / 2);
    cosine_ = cuda::upload(stream_, std::span(table.cos(0), count));
    sine_ = cuda::upload(stream_, std::span(table.sin(0), count));
    stream_.synchronize();
  }

  Recorded& recorded_for(std::int64_t rows, DType kv) {
    const auto found = recorded_.find({rows, kv});
    if (found != recorded_.end()) return *found->second;
    auto made = std::make_unique<Recorded>(stream_, shape_, options_.dtype, rows,
                                           kernels_.decode_scratch(rows));
    const auto step = [&] {
      run_layers(made->activations, rows, kv, /*one_sequence=*/false);
      run_head(made->activations, 0, rows, made->logits.address());
    };
    // Once for real, with rows that only fill the batch: whatever allocates or loads at its first
    // use does so before the recording.
    const std::vector<gpu::Place> nobody(static_cast<std::size_t>(rows));
    cuda::copy_to_device(stream_, made->activations.places.address(), nobody.data(),
                         nobody.size() * sizeof(gpu::Place));
    const auto greedy = [&] {
      step();
      kernels_.argmax(stream_, made->logits.address(), reinterpret_cast<Address>(made->ids.data()),
                      rows);
    };
    greedy();
    stream_.synchronize();
    made->graph.emplace(stream_, step);
    made->greedy.emplace(stream_, greedy);
    return *recorded_.emplace(std::pair{rows, kv}, std::move(made)).first->second;
  }

  /// Enqueues what `launch` does, unless time_step wants to know what a step takes without it.
  template <class Launch>
  void run(Kind kind, const Launch& launch) const {
    if (kind != without_) launch();
  }

  void product(Kind kind, const gpu::Operator& weight, Address b, std::int64_t k, Address c,
               std::int64_t m, std::int64_t rows) const {
    run(kind, [&] {
      weight.enqueue(stream_, {.b = b, .b_stride = k, .c = c, .c_stride = m, .n = rows});
    });
  }

  void run_layers(const Activations& a, std::int64_t rows, DType kv, bool one_sequence) {
    const std::int64_t q_width = shape_.heads * shape_.head_dim;
    const std::int64_t qkv_width = q_width + 2 * shape_.kv_heads * shape_.head_dim;
    run(Kind::kEmbedding, [&] {
      kernels_.embedding(stream_, embeddings_.address(), a.places.address(), a.hidden.address(),
                         rows);
    });
    Address delta = 0;  // What the network before adds: the next norm does it.
    Address delta_bias = 0;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      run(Kind::kNorm, [&] {
        kernels_.add_norm(stream_, a.hidden.address(), delta, delta_bias,
                          layer.attention_norm.address(), a.normed.address(), rows);
      });
      product(Kind::kQkv, *layer.qkv, a.normed.address(), shape_.hidden, a.qkv.address(), qkv_width,
              rows);
      const gpu::DecoderKernels::Attention at{.qkv = a.qkv.address(),
                                              .places = a.places.address(),
                                              .kv = kv,
                                              .layer = static_cast<int>(i),
                                              .rows = rows};
      const gpu::DecoderKernels::Rope rope{.bias = layer.qkv_bias.address(),
                                           .q_norm = layer.q_norm.address(),
                                           .k_norm = layer.k_norm.address(),
                                           .cosine = cosine_.address(),
                                           .sine = sine_.address()};
      run(Kind::kAttention, [&] {
        if (one_sequence) {
          kernels_.rope_store(stream_, at, rope);
          kernels_.attend_prefill(stream_, at, a.attended.address());
        } else {
          kernels_.attend_decode(stream_, at, rope, a.scratch.address(), a.attended.address());
        }
      });
      product(Kind::kO, *layer.o, a.attended.address(), q_width, a.delta.address(), shape_.hidden,
              rows);
      run(Kind::kNorm, [&] {
        kernels_.add_norm(stream_, a.hidden.address(), a.delta.address(), layer.o_bias.address(),
                          layer.mlp_norm.address(), a.normed.address(), rows);
      });
      product(Kind::kGateUp, *layer.gate_up, a.normed.address(), shape_.hidden, a.gate_up.address(),
              2 * shape_.ffn, rows);
      run(Kind::kSwiglu, [&] {
        kernels_.swiglu(stream_, a.gate_up.address(), layer.gate_up_bias.address(),
                        a.gated.address(), rows);
      });
      product(Kind::kDown, *layer.down, a.gated.address(), shape_.ffn, a.delta.address(),
              shape_.hidden, rows);
      delta = a.delta.address();
      delta_bias = layer.down_bias.address();
    }
  }

  /// Logits of rows first…rows-1, after run_layers.
  void run_head(const Activations& a, std::int64_t first, std::int64_t rows, Address logits) const {
    const auto skip = static_cast<Address>(first * shape_.hidden);
    const Address delta = layers_.empty() ? 0 : a.delta.address() + skip * size_of(options_.dtype);
    run(Kind::kNorm, [&] {
      kernels_.add_norm(stream_, a.hidden.address() + skip * sizeof(float), delta,
                        layers_.empty() ? 0 : layers_.back().down_bias.address(),
                        final_norm_.address(), a.normed.address(), rows - first);
    });
    product(Kind::kHead, *head_, a.normed.address(), shape_.hidden, logits, shape_.vocab,
            rows - first);
  }

  DecoderShape shape_;
  DeviceDecoderOptions options_;
  ThreadPool& pool_;
  std::shared_ptr<const cuda::Stream> shared_stream_;  // Before everything in its memory.
  const cuda::Stream& stream_;
  gpu::DecoderKernels kernels_;
  gpu::WeightMaker maker_;
  std::vector<Layer> layers_;
  cuda::DeviceBuffer embeddings_, final_norm_, cosine_, sine_;
  std::unique_ptr<gpu::Operator> head_;
  std::vector<DeviceWeight> weights_;
  std::size_t bytes_ = 0;
  std::int64_t positions_ = 0;
  Kind without_ = Kind::kNothing;
  Activations prefill_;
  cuda::DeviceBuffer prefill_logits_;
  std::map<std::pair<std::int64_t, DType>, std::unique_ptr<Recorded>> recorded_;
};

}  // namespace

Support device_decoder_support() {
  if (const std::string& error = cuda::driver_state().error; !error.empty())
    return Support::no(error);
  if (cuda::Device::count() == 0) return Support::no("the driver shows no GPU");
  try {
    const cuda::Device& device = cuda::Device::get();
    if (const Support compiler = cuda::can_compile(device.facts().arch()); !compiler)
      return compiler;
  } catch (const Error& error) {
    return Support::no(error.what());
  }
  if (const std::string& error = cuda::cublaslt_state().error; !error.empty())
    return Support::no(error);
  return Support::yes();
}

bool device_driver_found() {
  return static_cast<bool>(cuda::driver_state().library);
}

std::unique_ptr<DeviceDecoder> open_device_decoder(const DecoderShape& shape,
                                                   const DeviceDecoderOptions& options,
                                                   ThreadPool& pool) {
  if (const Support support = device_decoder_support(); !support)
    fail(ErrorKind::kUnsupported, "GPU: {}", support.reason);
  return std::make_unique<CudaDecoder>(shape, options, pool);
}

}  // namespace rarefy
