// A weight of blocks on a device.
#pragma once

#include <memory>

#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/block_sparse/cuda/block_operators.h"
#include "ops/spmm/cuda/blocks/cut_blocks.h"
#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

/// Multiplies by the blocks of a weight, whatever was left out of them.
class BlocksOperator final : public Operator {
 public:
  /// @param blocks of the problem's shape; only read here.
  BlocksOperator(const BlockProblem& problem, const BlockConfig& config, const CutBlocks& blocks,
                 const cuda::Stream& stream);
  /// With values of its own; lists, a hundredth of them, are shared.
  BlocksOperator(const BlocksOperator& from, const cuda::Stream& stream);

  void enqueue(const cuda::Stream& stream, const Operands& operands) const override;
  [[nodiscard]] std::size_t bytes() const override;
  [[nodiscard]] std::int64_t tokens_a_pass() const override { return kAnyNumber; }
  [[nodiscard]] bool expands() const override { return true; }
  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override;
  /// The same, but that places without a block keep what they hold.
  void expand_over(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const;
  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override;

 private:
  /// Numbers of tokens that lists were made for beforehand, one after the other.
  void enqueue_in_parts(const cuda::Stream& stream, const Operands& operands) const;

  BlockProblem problem_;
  std::int64_t tile_;  ///< Tokens of the kernel's tiles.
  cuda::Stream home_;  ///< Lists for other numbers of tokens are made here.
  std::shared_ptr<const BlockProducts> products_;
  cuda::DeviceBuffer values_, places_;
  mutable cuda::Kernel expand_;  ///< Once it is needed.
};

/// The kernel that writes blocks of 16-bit values out.
cuda::Source expand_blocks_source(int block_rows, int block_cols);

}  // namespace rarefy::gpu
