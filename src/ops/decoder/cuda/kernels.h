// The kernels of a decoder beside its products: made for one shape, launched on one stream.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/decoder/device_decoder.h"

namespace rarefy::gpu {

using Address = cuda::abi::CUdeviceptr;

class DecoderKernels {
 public:
  /// Throws `Error` (kUnsupported) for sizes that the kernels do not take.
  DecoderKernels(const cuda::Device& device, const DecoderShape& shape, DType dtype);

  /// hidden[t] = table row of places[t].token.
  void embedding(const cuda::Stream& stream, Address table, Address places, Address hidden,
                 std::int64_t rows) const;

  /// hidden += delta + bias (both may be 0: none), normed = RMSNorm(hidden) ⊙ weight.
  void add_norm(const cuda::Stream& stream, Address hidden, Address delta, Address bias,
                Address weight, Address normed, std::int64_t rows) const;

  /// Where attention finds what it needs.
  struct Attention {
    Address qkv = 0;     ///< rows × (heads + 2·kv_heads)·head_dim
    Address places = 0;  ///< One a row.
    DType kv = DType::kBF16;
    int layer = 0;
    std::int64_t rows = 0;
  };
  /// Angles and weights of what happens to q and k first.
  struct Rope {
    Address bias = 0;  ///< Of qkv, or 0.
    Address q_norm = 0, k_norm = 0;
    Address cosine = 0, sine = 0;  ///< positions × head_dim/2
  };
  /// Rotates q in place, and stores rotated k and v in the cache: before attend_prefill.
  void rope_store(const cuda::Stream& stream, const Attention& at, const Rope& rope);

  /// Rows of one sequence at neighbouring positions. out: rows × heads·head_dim
  void attend_prefill(const cuda::Stream& stream, const Attention& at, Address out);

  /// Rows of different sequences, with all that rope_store does. `scratch` has decode_scratch(rows)
  /// bytes, which were zero before its first use.
  void attend_decode(const cuda::Stream& stream, const Attention& at, const Rope& rope,
                     Address scratch, Address out);
  [[nodiscard]] std::size_t decode_scratch(std::int64_t rows) const;

  /// y = silu(gate) ⊙ up.  both: rows × 2·ffn
  void swiglu(const cuda::Stream& stream, Address both, Address bias, Address y,
              std::int64_t rows) const;

  /// ids[r]: the likeliest of row r.
  void argmax(const cuda::Stream& stream, Address logits, Address ids, std::int64_t rows) const;

 private:
  struct ForCache {
    cuda::Kernel rope_store, prefill, decode;
  };
  const ForCache& for_cache(DType kv);
  [[nodiscard]] std::int64_t splits(std::int64_t rows) const;
  [[nodiscard]] int window(int layer) const;
  [[nodiscard]] std::int64_t groups() const;  ///< Blocks of a split and row.
  /// A launch that may overlap the kernel before, where the device can.
  [[nodiscard]] cuda::Launch shaped(cuda::Grid grid, unsigned threads,
                                    std::size_t shared_bytes = 0) const;

  const cuda::Device& device_;
  DecoderShape shape_;
  DType dtype_;
  cuda::Kernel embedding_, add_norm_, swiglu_, argmax_;
  std::map<DType, ForCache> for_cache_;
};

/// Instances over the shapes of well-known models and every dtype, for the test that compiles all
/// kernels.
std::vector<cuda::Source> decoder_kernel_sources();

}  // namespace rarefy::gpu
