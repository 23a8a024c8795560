// The linear weights of a decoder on a device: which kernel each gets.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/cublas.h"
#include "ops/decoder/device_decoder.h"
#include "ops/spmm/cuda/device_spmm.h"
#include "ops/spmm/cuda/expanded.h"

namespace rarefy::gpu {

/// Of kernels that are this close to the fastest the smallest one is taken: a model is also
/// measured by its memory, and what holds fewer bytes is faster on many tokens.
constexpr double kGivenForBytes = 1.08;

/// Rows of another source, rounded to another dtype.
class ConvertedRows final : public RowSource {
 public:
  ConvertedRows(const RowSource& from, DType dtype) : from_(&from), dtype_(dtype) {}
  [[nodiscard]] std::int64_t rows() const override { return from_->rows(); }
  [[nodiscard]] std::int64_t cols() const override { return from_->cols(); }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] const void* dense_data() const override {
    return from_->dtype() == dtype_ ? from_->dense_data() : nullptr;
  }

 private:
  const RowSource* from_;
  DType dtype_;
};

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

/// Chooses a kernel for each weight. The first of a kind (shape, dtype, density) is searched; those
/// that are like it take the same kernel, so that a model costs a handful of searches.
class WeightMaker {
 public:
  WeightMaker(const cuda::Stream& stream, const DeviceDecoderOptions& options, ThreadPool& pool)
      : stream_(stream), options_(options), pool_(pool), expander_(stream) {}

  /// @param info gets kernel, shape, bytes and time.
  std::unique_ptr<Operator> make(const RowSource& weight, DType output, DeviceWeight& info);

 private:
  /// `op` for any number of tokens.
  std::unique_ptr<Operator> for_prompts(std::unique_ptr<Operator> op, const Problem& problem,
                                        const Weight& weight, double time_us, DeviceWeight& info);

  using Kind = std::pair<std::string, DType>;
  struct Known {
    std::string kernel;
    double time_us = 0;
  };
  const cuda::Stream& stream_;
  DeviceDecoderOptions options_;
  ThreadPool& pool_;
  Expander expander_;
  std::map<Kind, Known> known_;
};

}  // namespace rarefy::gpu
