// One problem on a GPU: its activations in both layouts, and how right an answer is.
#pragma once

#include <vector>

#include "cli/bench_ops_truth.h"
#include "cuda/memory.h"
#include "formats/csr.h"

namespace rarefy::bench {

/// What all methods of one problem share. B and C are of the weight's dtype, or of `activations`.
class GpuCase {
 public:
  GpuCase(const BenchWeight& weight, std::int64_t n, DType activations, const cuda::Stream& stream);

  [[nodiscard]] const BenchWeight& weight() const { return weight_; }
  [[nodiscard]] const RowSource* weight_source() const { return &source_; }
  [[nodiscard]] const CsrMatrix& csr() const;
  [[nodiscard]] const MatrixPtr& csr_pointer() const { return csr_; }
  [[nodiscard]] const PatternStats& pattern() const { return pattern_; }
  [[nodiscard]] std::int64_t n() const { return n_; }
  [[nodiscard]] DType activations() const { return activations_; }
  [[nodiscard]] const cuda::Stream& stream() const { return stream_; }
  [[nodiscard]] cuda::abi::CUdeviceptr b(Layout layout) const;
  [[nodiscard]] cuda::abi::CUdeviceptr c() const { return c_.address(); }

  /// Fills C with NaN, so that what a method does not write shows.
  void poison() const;
  /// Truth::error of what lies in C.
  [[nodiscard]] double error(Layout layout) const;

 private:
  const BenchWeight& weight_;
  DenseSource source_;
  std::int64_t n_;
  DType activations_;
  const cuda::Stream& stream_;
  PatternStats pattern_;
  MatrixPtr csr_;
  Buffer host_b_;
  Truth truth_;
  cuda::DeviceBuffer tokens_, features_, c_;
};

}  // namespace rarefy::bench
