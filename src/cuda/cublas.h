// Dense matrix products by NVIDIA's libraries: a candidate of every plan, and the rival of every
// benchmark.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/libraries.h"
#include "cuda/memory.h"
#include "rarefy/dtype.h"
#include "rarefy/spmm.h"

namespace rarefy::cuda {

/// What became of looking for a library; it is looked for once.
struct BlasState {
  Library library;
  std::string error;  ///< Empty when it is there.
};
const BlasState& cublaslt_state();
const BlasState& cublas_state();

/// C = A·B with A M×K row-major, sums in f32. Layouts as in SpmmArgs: tokens (B N×K, C N×M) or
/// features (B K×N, C M×N). Contiguous operands.
struct DenseProblem {
  std::int64_t m = 0, k = 0, n = 0;
  DType weight = DType::kF16;  ///< of A and B
  DType output = DType::kF16;
  Layout layout = Layout::kTokenMajor;
};

/// A product through cuBLASLt, with the algorithms that its heuristics propose for the problem. All
/// products of a stream share one scratch memory: enqueue only to the stream that it was made for.
class DenseMatmul {
 public:
  /// Throws `Error` (kUnsupported) without cuBLASLt, or when it knows no algorithm.
  DenseMatmul(const Stream& stream, const DenseProblem& problem, int most_algorithms = 8);
  ~DenseMatmul();
  DenseMatmul(DenseMatmul&&) noexcept;
  DenseMatmul& operator=(DenseMatmul&&) = delete;

  [[nodiscard]] int algorithms() const;
  void enqueue(const Stream& stream, int algorithm, abi::CUdeviceptr a, abi::CUdeviceptr b,
               abi::CUdeviceptr c) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The same through cublasGemmEx, which chooses by itself: a rival only.
class CublasMatmul {
 public:
  CublasMatmul(const Stream& stream, const DenseProblem& problem);
  ~CublasMatmul();
  CublasMatmul(CublasMatmul&&) noexcept;
  CublasMatmul& operator=(CublasMatmul&&) = delete;

  void enqueue(abi::CUdeviceptr a, abi::CUdeviceptr b, abi::CUdeviceptr c) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rarefy::cuda
