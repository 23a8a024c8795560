// Dense products by cuBLASLt with any number of tokens, and the epilogue that it does not have.
#pragma once

#include <cstdint>
#include <map>

#include "cuda/cublas.h"
#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/spmm/cuda/device_spmm.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

/// Dense rows of `source` in device memory, in its dtype.
cuda::DeviceBuffer upload_rows(const cuda::Stream& stream, const RowSource& source,
                               ThreadPool& pool = default_pool());

/// Proposals of cuBLASLt's heuristics that are asked for.
constexpr int kMostDenseAlgorithms = 8;

/// Products of one M×K weight, wherever it lies. One stream at a time runs them.
class DenseProducts {
 public:
  /// @param algorithm the place among the heuristics' proposals that is taken where there are as
  ///                  many, otherwise the first
  DenseProducts(const Problem& problem, int algorithm, const cuda::Stream& stream);

  /// Looks for `n` tokens' algorithm, so that `enqueue` allocates nothing. Returns how many there
  /// are.
  int prepare(const cuda::Stream& stream, std::int64_t n) const;

  void enqueue(const cuda::Stream& stream, cuda::abi::CUdeviceptr weight, const Operands& o) const;

 private:
  struct Product {
    cuda::DenseMatmul matmul;
    int algorithm;
    cuda::DeviceBuffer sums;  ///< Before the epilogue, when there is one.
  };
  const Product& product_for(const cuda::Stream& stream, std::int64_t n) const;

  Problem problem_;
  int algorithm_;
  cuda::Kernel epilogue_;
  mutable std::map<std::int64_t, Product> products_;
};

/// Of the epilogue's kernel; empty text when the problem has none.
/// @param sums their dtype
cuda::Source dense_epilogue_source(const Problem& problem, DType sums = DType::kF32);

/// Microseconds of a dense product: bytes while tokens are few, arithmetic afterwards.
double dense_estimate_us(const Problem& problem, const cuda::DeviceFacts& device);

}  // namespace rarefy::gpu
