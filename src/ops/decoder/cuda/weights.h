// The linear weights of a decoder on a device: which kernel each gets.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "cuda/cublas.h"
#include "ops/decoder/device_decoder.h"
#include "ops/spmm/cuda/device_spmm.h"
#include "ops/spmm/cuda/expanded.h"
#include "ops/spmm/cuda/kernel_chooser.h"

namespace rarefy::gpu {

/// A dense product with a table that somebody else holds on the device: the output head of a model
/// with tied embeddings.
class TableProduct final : public Operator {
 public:
  TableProduct(cuda::abi::CUdeviceptr table, const cuda::DenseProblem& problem)
      : table_(table), problem_(problem) {}
  void enqueue(const cuda::Stream& stream, const Operands& operands) const override;
  [[nodiscard]] std::size_t bytes() const override { return 0; }
  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override;

 private:
  cuda::abi::CUdeviceptr table_;
  cuda::DenseProblem problem_;
  mutable std::map<std::int64_t, cuda::DenseMatmul> products_;  ///< By number of tokens.
};

/// Chooses a kernel for each weight, and makes it run any number of tokens.
class WeightMaker {
 public:
  WeightMaker(const cuda::Stream& stream, const DeviceDecoderOptions& options, ThreadPool& pool)
      : stream_(stream), options_(options), pool_(pool), expander_(stream) {}

  /// @param info gets kernel, shape, bytes and time.
  std::unique_ptr<Operator> make(const RowSource& weight, DType output, DeviceWeight& info);

 private:
  const cuda::Stream& stream_;
  DeviceDecoderOptions options_;
  ThreadPool& pool_;
  Expander expander_;
  KernelChooser chooser_;
};

}  // namespace rarefy::gpu
