// A whole decoder on a device: what models see of a GPU.
//
// Weights are given layer by layer, stay on the device, and run as one piece: only token ids go
// there, only logits or the likeliest tokens come back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "rarefy/device.h"
#include "rarefy/dtype.h"
#include "rarefy/error.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy {

/// The sizes and constants of a decoder (Llama, Mistral, Qwen2, Qwen3).
struct DecoderShape {
  std::int64_t vocab = 0, hidden = 0, ffn = 0, layers = 0;
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  bool head_norm = false;  ///< Heads of q and k are normalised (Qwen3).
  float eps = 1e-5F;
  std::int64_t window = 0;               ///< Sliding window; 0: none.
  std::int64_t window_first_layer = 0;   ///< Layers from this one on have it.
  std::vector<double> rope_frequencies;  ///< head_dim / 2, scaled.
};

/// One layer as it is given to a device. Vectors are f32; empty where the family has none.
struct DeviceLayerWeights {
  const RowSource* qkv = nullptr;      ///< Rows of q, then k, then v.
  const RowSource* o = nullptr;        ///< Back to the hidden states.
  const RowSource* gate_up = nullptr;  ///< Rows of gate, then up.
  const RowSource* down = nullptr;
  std::span<const float> attention_norm, mlp_norm, q_norm, k_norm;
  std::span<const float> qkv_bias, o_bias, gate_up_bias, down_bias;
};

/// Keys and values of one sequence in a device's memory.
class DeviceKv {
 public:
  virtual ~DeviceKv() = default;
};

struct DeviceDecoderOptions {
  DType dtype = DType::kBF16;  ///< Of weights and activations. Hidden states stay in f32, and so do
                               ///< all sums.
  std::int64_t tokens = 1;     ///< At once that kernels are chosen for.
  bool dense_only = false;     ///< Keeps zeros: the dense model.
  bool measure = true;         ///< false: measures the best estimate against dense only.
  /// As `LoadOptions::weight_memory`.
  std::optional<double> weight_memory = {};
};

class DeviceDecoder {
 public:
  virtual ~DeviceDecoder() = default;

  /// Layers in their order, then `finish`. Sources may go away afterwards; their dtype may be any:
  /// it is converted. Throws `Error`: kOutOfMemory when the device has no room.
  virtual void add_layer(const DeviceLayerWeights& layer) = 0;
  /// @param head nullptr: the embeddings are tied.
  virtual void finish(const RowSource& embeddings, std::span<const float> final_norm,
                      const RowSource* head) = 0;

  [[nodiscard]] virtual const std::vector<DeviceWeight>& weights() const = 0;
  /// Everything that was uploaded: packed weights, embeddings, norms, biases.
  [[nodiscard]] virtual std::size_t weight_bytes() const = 0;
  /// "NVIDIA H100 80GB HBM3"
  [[nodiscard]] virtual std::string device_name() const = 0;

  /// @param dtype f32, f16 or bf16
  [[nodiscard]] virtual std::shared_ptr<DeviceKv> make_kv(std::int64_t capacity, DType dtype) = 0;

  /// Runs tokens of one sequence at positions first_position…, after those that `kv` holds.
  /// @param logits T×vocab with `all`, else 1×vocab (of the last); nullptr: not wanted.
  virtual void prefill(std::span<const std::int32_t> ids, DeviceKv& kv, std::int64_t first_position,
                       bool all, float* logits) = 0;

  /// A token that goes on with a sequence.
  struct Step {
    std::int32_t token = 0;
    std::int64_t position = 0;
    DeviceKv* kv = nullptr;
  };
  /// One token of each of several sequences of the same KV dtype.
  /// @param logits one row of vocab values a sequence, or nullptr
  /// @param best   the likeliest next token of each, or nullptr: the lowest id among equals, -1
  ///               where logits are not finite
  virtual void decode(std::span<const Step> steps, float* logits, std::int32_t* best) = 0;

  /// Where the time of a step of so many sequences goes, each with `position` positions behind it:
  /// the whole step first, then its kinds of kernels. Takes the memory of their caches meanwhile.
  virtual std::vector<DeviceStepPart> time_step(std::int64_t sequences, std::int64_t position) = 0;
};

/// Whether a GPU runs models here; if not, what was looked for and is missing. Never throws.
Support device_decoder_support();

/// Whether an NVIDIA driver is installed, usable or not: then it is worth saying why no GPU is
/// used.
bool device_driver_found();

/// Opens a decoder on the first GPU. Throws `Error` (kUnsupported) for what
/// `device_decoder_support` says, and for shapes that the kernels do not take.
std::unique_ptr<DeviceDecoder> open_device_decoder(const DecoderShape& shape,
                                                   const DeviceDecoderOptions& options,
                                                   ThreadPool& pool = default_pool());

}  // namespace rarefy
