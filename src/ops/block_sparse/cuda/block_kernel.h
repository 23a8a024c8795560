// One kernel of one block pattern, whichever product it is of.
#pragma once

#include <memory>

#include "ops/block_sparse/cuda/block_operators.h"
#include "ops/block_sparse/device_blocks.h"

namespace rarefy::gpu {

/// A kernel with the lists of a pattern. Launches only, once it is ready for a number of tokens.
class BlockKernel {
 public:
  BlockKernel(const BlockProblem& problem, const BlockConfig& config, const BlockPattern& pattern,
              const cuda::Stream& stream) {
    if (problem.product == BlockProduct::kSamples) {
      samples_ = std::make_unique<BlockSamples>(problem, config, pattern, stream);
    } else {
      products_ = std::make_unique<BlockProducts>(problem, config, pattern, stream);
    }
  }

  [[nodiscard]] bool is_ready_for(std::int64_t tokens) const {
    return samples_ != nullptr || products_->is_ready_for(tokens);
  }
  void prepare(const cuda::Stream& stream, std::int64_t tokens) {
    if (!is_ready_for(tokens)) products_->prepare(stream, tokens);
  }

  void enqueue(const cuda::Stream& stream, const DeviceBlockCall& call) const {
    if (samples_ != nullptr)
      return samples_->enqueue(stream, {.p = call.x.address,
                                        .q = call.y.address,
                                        .p_stride = call.x.stride,
                                        .q_stride = call.y.stride,
                                        .out = call.values,
                                        .tokens = call.tokens});
    products_->enqueue(stream, {.values = call.values,
                                .b = call.x.address,
                                .b_stride = call.x.stride,
                                .c = call.y.address,
                                .c_stride = call.y.stride,
                                .bias = call.bias,
                                .tokens = call.tokens});
  }

  [[nodiscard]] std::size_t bytes() const {
    return samples_ != nullptr ? samples_->bytes() : products_->bytes();
  }

  bool recorded = false;  ///< By a graph, which may be launched at any time.

 private:
  std::unique_ptr<BlockProducts> products_;
  std::unique_ptr<BlockSamples> samples_;
};

}  // namespace rarefy::gpu
