// Block-sparse products on a GPU, on values that stay where their owner keeps them: what a pattern
// needs is made and uploaded once, the values are read (or written) anew by every call.
//
// A caller asks block_configs (block_config.h) for the kernels of its problem, best estimate first,
// and makes one of these from one of them; measuring them all is up to the caller.
#pragma once

#include <cstddef>
#include <map>

#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/block_sparse/cuda/block_config.h"

namespace rarefy::gpu {

/// Device addresses of one run, elements of the problem's dtype but for the bias. Rows are tokens;
/// strides count elements. Addresses and strides of b (p, q) are multiples of 16 bytes, those of c
/// and of the residual of 4.
struct BlockProductOperands {
  cuda::abi::CUdeviceptr values = 0;  ///< blocks × block_rows × block_cols
  cuda::abi::CUdeviceptr b = 0;       ///< Activations.
  std::int64_t b_stride = 0;
  cuda::abi::CUdeviceptr c = 0;  ///< Overlaps nothing but perhaps the residual, which may be c.
  std::int64_t c_stride = 0;
  cuda::abi::CUdeviceptr bias = 0;  ///< A float for each output, when the problem has a bias.
  cuda::abi::CUdeviceptr residual = 0;
  std::int64_t residual_stride = 0;
  std::int64_t tokens = 0;
};
struct BlockSampleOperands {
  cuda::abi::CUdeviceptr p = 0, q = 0;
  std::int64_t p_stride = 0, q_stride = 0;
  cuda::abi::CUdeviceptr out = 0;  ///< As values.
  std::int64_t tokens = 0;
};

/// The forward or the transposed product of one pattern by one kernel. Same bits every time.
class BlockProducts {
 public:
  /// The pattern is not kept. Throws `Error` where the kernel does not compile or fit.
  BlockProducts(const BlockProblem& problem, const BlockConfig& config, const BlockPattern& pattern,
                const cuda::Stream& stream);

  /// Makes ready for a number of tokens, so that `enqueue` allocates nothing: before recording.
  void prepare(const cuda::Stream& stream, std::int64_t tokens) const;
  [[nodiscard]] bool is_ready_for(std::int64_t tokens) const {
    return tokens == 0 || lists_.contains(tiles(tokens));
  }

  /// Launches only. Throws `Error` (kInvalidArgument) for addresses and strides that do not fit.
  void enqueue(const cuda::Stream& stream, const BlockProductOperands& operands) const;

  /// Device memory of what was made of the pattern.
  [[nodiscard]] std::size_t bytes() const;

 private:
  struct Lists {
    cuda::DeviceBuffer tiles, begin;
  };
  const Lists& lists_for(const cuda::Stream& stream, std::int64_t tokens) const;
  [[nodiscard]] std::int64_t tiles(std::int64_t tokens) const {
    return (tokens + config_.tokens - 1) / config_.tokens;
  }

  BlockProblem problem_;
  BlockConfig config_;
  std::int64_t blocks_;
  std::int64_t workers_ = 0;  ///< Blocks of the grid; 0: a block a tile.
  Steps steps_;               ///< Costs alone: the other arrays are on the device.
  cuda::Kernel kernel_;
  cuda::DeviceBuffer step_list_, step_begin_, pieces_, strips_;
  mutable std::map<std::int64_t, Lists> lists_;  ///< By tiles of tokens.
};

/// The stored blocks of Pᵀ·Q by one kernel. Same bits every time.
class BlockSamples {
 public:
  BlockSamples(const BlockProblem& problem, const BlockConfig& config, const BlockPattern& pattern,
               const cuda::Stream& stream);
  void enqueue(const cuda::Stream& stream, const BlockSampleOperands& operands) const;
  [[nodiscard]] std::size_t bytes() const;

 private:
  BlockProblem problem_;
  BlockConfig config_;
  std::int64_t blocks_;
  std::int64_t tasks_;
  cuda::Kernel kernel_;
  cuda::DeviceBuffer task_list_, pieces_, strips_;  ///< Of wgmma: places for pieces.
};

}  // namespace rarefy::gpu
