// Products of 2:4 weights by NVIDIA's cuSPARSELt, which runs them on sparse tensor cores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "cuda/libraries.h"
#include "cuda/memory.h"
#include "rarefy/dtype.h"

namespace rarefy::cuda {

/// What became of looking for the library; it is looked for once.
struct SparseLtState {
  Library library;
  std::string version;  ///< "0.8.1"
  std::string error;    ///< Empty when it is there, and new enough: 0.6 on.
};
const SparseLtState& cusparselt_state();

/// D = A·B + C with A M×K, of whose rows each aligned group of four columns holds at most two
/// nonzeros; sums in f32. Token after token: B is N×K, C and D are N×M.
struct StructuredProblem {
  std::int64_t m = 0, k = 0, n = 0;
  DType dtype = DType::kF16;  ///< Of all four: f16 or bf16.
  /// Elements between rows of B, and between those of C and of D; 0: no gaps.
  std::int64_t b_stride = 0, d_stride = 0;
};

/// What M and K are multiples of, and what N and strides are. Addresses are multiples of 16.
inline constexpr std::int64_t kStructuredMultiple = 16, kStructuredTokens = 8;

struct StructuredAlgorithm {
  int id = 0;
  /// Pieces of K that are summed separately: any number below compute capability 9.0; there 1, or
  /// kSegments, which leaves the cutting to the library.
  int split = 1;
  static constexpr int kSegments = -1;
};

/// A product through cuSPARSELt. One stream at a time runs it.
class StructuredMatmul {
 public:
  /// Throws `Error` (kUnsupported) without cuSPARSELt, or for what it does not take.
  StructuredMatmul(const Stream& stream, const StructuredProblem& problem,
                   const StructuredAlgorithm& algorithm);
  ~StructuredMatmul();
  StructuredMatmul(StructuredMatmul&&) noexcept;
  StructuredMatmul& operator=(StructuredMatmul&&) = delete;

  /// How many algorithms there are for a problem: their ids count from 0. Throws as the constructor
  /// does.
  static int algorithms(const Device& device, const StructuredProblem& problem);

  [[nodiscard]] std::size_t workspace_bytes() const;

  /// Throws `Error`: kUnsupported where the library has no kernel, kInternal when one failed.
  /// @param a of `compress_structured`
  /// @param c 0: nothing is added; may be `d`
  void enqueue(const Stream& stream, abi::CUdeviceptr a, abi::CUdeviceptr b, abi::CUdeviceptr c,
               abi::CUdeviceptr d) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The weight of a product as its algorithms take it, all of them alike: values and places. Throws
/// `Error`: kUnsupported as products do, kOutOfMemory.
/// @param dense M×K in the problem's dtype, 2:4: what is not is silently lost
DeviceBuffer compress_structured(const Stream& stream, const StructuredProblem& problem,
                                 abi::CUdeviceptr dense);

}  // namespace rarefy::cuda
