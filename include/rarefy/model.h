// A decoder-only transformer over weights of any format.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rarefy/checkpoint.h"
#include "rarefy/config.h"
#include "rarefy/device.h"
#include "rarefy/planner.h"
#include "rarefy/progress.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"
#include "rarefy/tokenizer.h"

namespace rarefy {

/// Where a model runs.
enum class Device : std::uint8_t {
  kCpu,
  kCuda,  ///< The first NVIDIA GPU.
  kAuto,  ///< A GPU when there is one that can (and has room), otherwise the CPU.
};

/// Whether `Device::kCuda` can run models on this machine, and if not, what was looked for and what
/// is missing. Never throws.
Support cuda_support();

struct LoadOptions {
  std::vector<Workload> workloads{{1, 1.0}, {128, 0.05}};  ///< What the plans optimise for.
  Precision precision = Precision::kExact;
  std::vector<FormatSpec> formats;  ///< Restricts the search; {format::kDense} loads a dense model.
  std::vector<std::string> kernels;  ///< Restricts the search to these kernels, by name.
  bool measure = true;               ///< false: plans from cache or estimate only.
  std::size_t memory_budget =
      std::numeric_limits<std::size_t>::max();  ///< Bytes for all packed weights together.
  Progress* progress = nullptr;
  /// On a GPU `formats` means {format::kDense} or any; `precision` and `kernels` are the CPU's.
  Device device = Device::kCpu;
  /// Of weights and activations on a GPU (hidden states and sums are f32): the checkpoint's unless
  /// given. kF32 compares with the CPU.
  std::optional<DType> device_dtype;
  /// On a GPU: memory that a packed weight and a second form for many tokens may take together, as
  /// a share of the dense weight's; 0.75 unless given. Where it is enough for that, the second form
  /// is the dense weight, and prompts take as long as a dense model's. From 0 on; the CPU has one
  /// form of each weight. Where a GPU or the budget has no room for second forms, weights are
  /// loaded without.
  std::optional<double> weight_memory;
};

/// One weight of a loaded model: its name in the checkpoint, its plan, its packed form.
struct ModelWeight {
  std::string name;
  const Linear* linear = nullptr;
};

class DeviceKv;

/// Keys and values of one sequence, all layers. They lie where the model runs that writes them
/// first, and take memory from then on.
class KvCache {
 public:
  KvCache(const ModelConfig& config, std::int64_t capacity, DType dtype = DType::kF32);
  [[nodiscard]] std::int64_t size() const { return size_; }
  [[nodiscard]] std::int64_t capacity() const { return capacity_; }
  [[nodiscard]] std::int64_t layers() const { return layers_; }
  [[nodiscard]] std::int64_t width() const { return width_; }  ///< kv_heads·head_dim
  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] std::size_t bytes() const;
  void truncate(std::int64_t size);                  ///< Forgets positions from `size` on.
  [[nodiscard]] MatrixRef keys(std::int64_t layer);  ///< capacity × width
  [[nodiscard]] MatrixRef values(std::int64_t layer);
  void append(std::int64_t tokens);  ///< Counts positions that were written; `forward` does it.

  /// Its place on a device; empty for a cache of the CPU. Models set it.
  std::shared_ptr<DeviceKv> on_device;

 private:
  void allocate();
  std::int64_t layers_, capacity_, width_, size_ = 0;
  DType dtype_;
  std::vector<Buffer> keys_, values_;
};

/// Inputs of the linear layers as they pass by: how calibration sees a model. `x` is T×K f32, valid
/// during the call.
using LinearHook = std::function<void(std::string_view weight_name, ConstMatrixRef x)>;

/// Its activations live in one workspace: one `forward` at a time.
class Model {
 public:
  /// Reads config.json and the weights, plans and packs one weight after the other. Throws `Error`:
  /// kCorrupt names the tensor that is missing, has another shape than config.json says, or holds
  /// NaN or infinity.
  static std::unique_ptr<Model> load(const std::filesystem::path& directory, Planner& planner,
                                     const LoadOptions& options, ThreadPool& pool = default_pool());
  /// The same from a checkpoint that is open, or lies in no file.
  static std::unique_ptr<Model> load(const ModelConfig& config,
                                     std::shared_ptr<const Checkpoint> checkpoint, Planner& planner,
                                     const LoadOptions& options, ThreadPool& pool = default_pool());
  ~Model();

  [[nodiscard]] const ModelConfig& config() const;
  [[nodiscard]] ThreadPool& pool() const;  ///< Whose threads it runs on.
  /// Empty for a model on a GPU.
  [[nodiscard]] std::vector<ModelWeight> weights() const;
  /// Weights as they lie on the GPU; empty for a model of the CPU.
  [[nodiscard]] std::vector<DeviceWeight> device_weights() const;
  /// Name of the GPU that it runs on; empty for the CPU.
  [[nodiscard]] std::string gpu() const;
  /// Why a model that was loaded with Device::kAuto does not run on the GPU that is there: its
  /// driver is too old, its memory too small. Empty otherwise.
  [[nodiscard]] std::string gpu_note() const;
  /// Where the time of a decode step of so many sequences goes, each with `position` positions
  /// behind it: the whole step first, then its kinds of kernels. Empty for the CPU.
  [[nodiscard]] std::vector<DeviceStepPart> time_step(std::int64_t sequences,
                                                      std::int64_t position) const;
  /// What its caches are best made of: f32 on the CPU, the dtype of activations on a GPU.
  [[nodiscard]] DType kv_dtype() const;
  [[nodiscard]] std::size_t weight_bytes()
      const;  ///< Packed weights, embeddings and norms as held in memory.
  [[nodiscard]] std::size_t dense_weight_bytes()
      const;  ///< The same, all stored dense in the checkpoint's dtype.

  enum class Logits : std::uint8_t { kLast, kAll };

  /// Runs `ids` after what `cache` holds, in chunks of at most `chunk` tokens (0: 512 on the CPU;
  /// 2048 on a GPU, where each chunk expands thin weights anew), and appends them to the cache.
  /// @return logits, f32: 1×vocab (kLast) or T×vocab (kAll). Throws `Error` when the cache is too
  /// small or an id out of range.
  Buffer forward(std::span<const TokenId> ids, KvCache& cache, Logits which = Logits::kLast,
                 std::int64_t chunk = 0);

  /// One more token of each of several sequences at once: ids[i] goes after what *caches[i] holds.
  /// On a GPU all caches must have one dtype.
  /// @return logits, f32, one row a sequence. Throws `Error` as `forward` does.
  Buffer decode(std::span<const TokenId> ids, std::span<KvCache* const> caches);

  /// The same, for the likeliest next token of each only (the lowest id among equals): on a GPU the
  /// logits stay there. Throws `Error` for logits that are not finite.
  std::vector<TokenId> decode_greedy(std::span<const TokenId> ids,
                                     std::span<KvCache* const> caches);

  struct Impl;

 private:
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// One decoder layer and the hidden states that flow through it, for work that must hold only one
/// layer in memory (calibration). Weights are read from the checkpoint as they are (dense f32
/// compute); see compress.
class LayerStream {
 public:
  LayerStream(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
              ThreadPool& pool = default_pool());
  ~LayerStream();
  /// Hidden states T×D of `ids` before layer 0.
  Buffer embed(std::span<const TokenId> ids);
  /// Loads layer `layer` (dropping the one before).
  void load(std::int64_t layer);
  /// Names of the layer's linear weights in the order in which they run: q, k, v, o, gate, up,
  /// down.
  [[nodiscard]] std::vector<std::string> weight_names() const;
  /// Frees a weight of the loaded layer until `replace` brings another; `forward` throws before
  /// that.
  void release(const std::string& name);
  /// Replaces a weight of the loaded layer (M×K, any dtype), so that later tensors see the pruned
  /// model.
  void replace(const std::string& name, const std::shared_ptr<const RowSource>& weight);
  /// Runs one sequence of T tokens in place through the loaded layer; `hook` sees the input of
  /// every linear weight.
  void forward(MatrixRef hidden, const LinearHook& hook);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rarefy
