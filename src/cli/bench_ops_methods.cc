#include "cli/bench_ops_methods.h"

#include <algorithm>

#include "base/check.h"
#include "planner/partition.h"
#include "planner/search_space.h"
#include "planner/wake_apart.h"
#include "rarefy/cpu.h"

namespace rarefy::bench {
namespace {

SpmmProblem spmm_problem(const Problem& p) {
  return {.m = p.weight.m,
          .k = p.weight.k,
          .n = p.n,
          .weight = p.weight.dtype,
          .activations = p.activations,
          .output = DType::kF32,
          .precision = p.precision,
          .threads = p.pool.size()};
}

class OurMethod final : public Method {
 public:
  OurMethod(const Problem& problem, FormatSpec format, const SpmmKernel& kernel)
      : problem_(problem), format_(format), kernel_(kernel) {
    make_copies(1);
  }
  [[nodiscard]] std::string name() const override { return std::string(kernel_.name()); }
  [[nodiscard]] std::string format() const override { return format_.name(); }
  [[nodiscard]] bool dense() const override { return format_.format == Format::kDense; }
  [[nodiscard]] std::size_t bytes() const override { return copies_.front()->bytes(); }
  void make_copies(int copies) override {
    while (std::ssize(copies_) < copies)
      copies_.push_back(pack(problem_.weight.source(), format_, problem_.pool));
  }
  void before() override { planning::wake_apart(problem_.pool); }
  void run(int copy) override {
    SpmmArgs args;
    args.b = problem_.b;
    args.c = problem_.c;
    args.precision = problem_.precision;
    spmm(*copies_.at(static_cast<std::size_t>(copy)), args, problem_.pool, &kernel_);
  }

 private:
  const Problem& problem_;
  FormatSpec format_;
  const SpmmKernel& kernel_;
  std::vector<MatrixPtr> copies_;
};

}  // namespace

std::unique_ptr<Method> our_method(const Problem& problem, const PatternStats& pattern,
                                   const MachineCeilings& ceilings, const FormatSpec& format,
                                   const SpmmKernel& kernel) {
  auto method = std::make_unique<OurMethod>(problem, format, kernel);
  method->floor_us = roofline(kernel, format, pattern, spmm_problem(problem), ceilings).floor_us();
  return method;
}

Methods our_methods(const Problem& problem, const PatternStats& pattern,
                    const MachineCeilings& ceilings, const BlockCalibration* calibration, bool all,
                    std::vector<Skipped>& skipped) {
  const DenseSource source = problem.weight.source();
  const std::vector<FormatSpec> fitting = planning::fitting_nm(source, pattern, problem.pool);
  Methods methods;
  PlanRequest request;
  request.workloads = {{problem.n, 1.0}};
  std::vector<FormatSpec> formats = planning::search_formats(request, source.dtype());
  if (active_isa() >= Isa::kAmx) {
    for (const FormatSpec& hybrid :
         planning::hybrid_formats(pattern, source.dtype(), request, calibration))
      formats.push_back(hybrid);
  }
  for (const FormatSpec& format : formats) {
    if (format.format == Format::kNm &&
        std::find(fitting.begin(), fitting.end(), format) == fitting.end())
      continue;
    if (const Support packs = can_pack(format, source.rows(), source.cols(), source.dtype());
        !packs) {
      skipped.push_back({format.name(), packs.reason});
      continue;
    }
    // A block format that would store most of the weight anyway is only a slower dense one.
    const auto dense_bytes = static_cast<double>(problem.weight.values.size());
    if (format.format != Format::kDense &&
        static_cast<double>(estimate_packed_bytes(format, pattern, source.dtype())) >
            1.25 * dense_bytes) {
      skipped.push_back({format.name(), "would take more than 1.25 times the dense bytes"});
      continue;
    }
    for (const SpmmKernel* kernel : spmm_kernels()) {
      if (!kernel->supports(format, spmm_problem(problem))) continue;
      if (!all && planning::outdone(*kernel, format, spmm_problem(problem), spmm_kernels()))
        continue;
      try {
        methods.push_back(our_method(problem, pattern, ceilings, format, *kernel));
      } catch (const Error& error) {
        skipped.push_back({std::string(kernel->name()), error.what()});
      }
    }
  }
  return methods;
}

}  // namespace rarefy::bench
