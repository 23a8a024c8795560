// Products of a 2:4 weight by cuSPARSELt with any number of tokens anywhere in memory, and the
// epilogue that it does not have.
#pragma once

#include <cstdint>
#include <map>
#include <tuple>

#include "cuda/cusparselt.h"
#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

/// Problems that all of the library's algorithms have multiplied: on an H100 some of 0.8.0 hung, or
/// stopped with an illegal instruction, with fewer rows, columns or tokens.
constexpr std::int64_t kSmallestStructured = 4096, kFewestStructuredTokens = 256;

/// Products of one M×K weight. One stream at a time runs them.
///
/// Sums are f32 within the library, which rounds them to the output's dtype. A residual alone is
/// added before that; with a bias or an activation, the epilogue works on sums that are rounded
/// already.
class StructuredProducts {
 public:
  StructuredProducts(const Problem& problem, const cuda::StructuredAlgorithm& algorithm,
                     const cuda::Stream& stream);

  void enqueue(const cuda::Stream& stream, cuda::abi::CUdeviceptr compressed,
               const Operands& o) const;

  /// Scratch memory that the products so far need.
  [[nodiscard]] std::size_t bytes() const;

 private:
  /// How operands lie, as far as a plan knows. Staged ones are copied to where the library takes
  /// them, without gaps.
  struct Way {
    std::int64_t n = 0;  ///< Whole eights, and never few where the problem has many.
    std::int64_t b_stride = 0, d_stride = 0;  ///< 0: staged.
    bool operator<(const Way& other) const {
      return std::tie(n, b_stride, d_stride) < std::tie(other.n, other.b_stride, other.d_stride);
    }
  };
  struct Product {
    cuda::StructuredMatmul matmul;
    cuda::DeviceBuffer b, d;
  };
  [[nodiscard]] Way way_of(const Operands& o) const;
  /// The most tokens that fewer are filled up to: a graph that records what never ran takes so many
  /// at a time, copied to where they fit.
  [[nodiscard]] std::int64_t least_tokens() const;
  const Product& product_for(const Way& way) const;
  void copy(const cuda::Stream& stream, cuda::abi::CUdeviceptr from, std::int64_t from_stride,
            cuda::abi::CUdeviceptr to, std::int64_t to_stride, std::int64_t rows,
            std::int64_t cols) const;

  Problem problem_;
  cuda::StructuredAlgorithm algorithm_;
  cuda::Stream home_;  ///< That memory for other numbers of tokens comes from.
  cuda::Kernel copy_, finish_;
  mutable std::map<Way, Product> products_;
};

/// Of the kernel that copies operands to where the library takes them.
cuda::Source structured_source(DType dtype);

/// What the library is asked for `n` tokens of a problem, rounded up to what it takes.
cuda::StructuredProblem structured_problem(const Problem& problem, std::int64_t n);

}  // namespace rarefy::gpu
