// Ways to compute C = A·B that a benchmark compares: our kernels and everybody else's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/bench_ops_weights.h"
#include "rarefy/planner.h"
#include "rarefy/spmm.h"

namespace rarefy::bench {

/// One multiplication with its operands; all methods read the same B and write the same C.
struct Problem {
  const BenchWeight& weight;
  std::int64_t n = 1;
  DType activations = DType::kBF16;  ///< dtype of B
  Precision precision = Precision::kBf16;
  ConstMatrixRef b;  ///< n × k
  MatrixRef c;       ///< n × m, f32
  ThreadPool& pool;
};

/// A method with its weights packed; made for one problem.
class Method {
 public:
  virtual ~Method() = default;
  [[nodiscard]] virtual std::string name() const = 0;    ///< "bitmap.avx512", "onednn"
  [[nodiscard]] virtual std::string format() const = 0;  ///< FormatSpec's name, or the rival's own.
  [[nodiscard]] virtual bool dense() const = 0;          ///< Counts for the best dense of the run.
  [[nodiscard]] virtual std::size_t bytes() const = 0;   ///< Of one copy of the packed weight.
  /// Packs copies until there are `copies`.
  virtual void make_copies(int copies) = 0;
  /// Writes problem.c. `copy` counts from 0.
  virtual void run(int copy) = 0;
  /// Wakes and stops threads that are not of our pool, so that neither does the method pay for
  /// starting them nor do they spin beside the next one.
  virtual void before() {}
  virtual void after() {}
  /// Floor of one run on this machine, microseconds; 0 where unknown.
  double floor_us = 0;
};

using Methods = std::vector<std::unique_ptr<Method>>;

/// Something that could not take part, and why.
struct Skipped {
  std::string name, reason;
};

/// Our kernels on every format of the search space. Without `all`, a kernel is left out where the
/// same family has one for a higher instruction set, and the generic one where the format has its
/// own.
Methods our_methods(const Problem& problem, const PatternStats& pattern,
                    const MachineCeilings& ceilings, const BlockCalibration* calibration, bool all,
                    std::vector<Skipped>& skipped);

/// One kernel on one format.
std::unique_ptr<Method> our_method(const Problem& problem, const PatternStats& pattern,
                                   const MachineCeilings& ceilings, const FormatSpec& format,
                                   const SpmmKernel& kernel);

/// oneDNN, OpenBLAS and, where it is installed, MKL's sparse BLAS.
Methods rival_methods(const Problem& problem, const MachineCeilings& ceilings,
                      std::vector<Skipped>& skipped);

}  // namespace rarefy::bench
