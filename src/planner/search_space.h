// The formats and kernels that a plan may choose from, and why the others are out.
#pragma once

#include <span>
#include <vector>

#include "planner/kernel_scales.h"
#include "rarefy/matrix.h"
#include "rarefy/planner.h"
#include "rarefy/spmm.h"

namespace rarefy::planning {

/// Formats of the search space for a weight of `dtype`: dense first, then what `request` allows.
std::vector<FormatSpec> search_formats(const PlanRequest& request, DType dtype);

/// Whether every group of `m` consecutive columns of every row holds at most `n` nonzeros. Stops at
/// the first row that breaks the pattern, so a random weight costs one panel of rows.
bool fits_nm(const RowSource& weight, int n, int m, ThreadPool& pool);

/// The N:M formats of the search space whose pattern `weight` keeps.
std::vector<FormatSpec> fitting_nm(const RowSource& weight, const PatternStats& pattern,
                                   ThreadPool& pool);

/// A candidate beside the kernel object that it names; `kernel` is nullptr where the weight cannot
/// be packed in the format.
struct Entry {
  Candidate candidate;
  const SpmmKernel* kernel = nullptr;
  [[nodiscard]] bool possible() const { return kernel != nullptr && candidate.reason.empty(); }
};

/// Shape and dtypes of one run of the weight.
SpmmProblem problem_for(const RowSource& weight, const PlanRequest& request, std::int64_t n,
                        int threads);

/// Every format × kernel × distinct n of the workloads, estimated where possible, with the reason
/// where not. `nm_formats` are those that depend on the weight: N:M that it keeps, and hybrids cut
/// for it. Pairs of a kernel and a format of another family are left out: they would only say
/// so. `scales`, if any, correct the estimates.
std::vector<Entry> enumerate_candidates(const RowSource& weight, const PatternStats& pattern,
                                        std::span<const FormatSpec> nm_formats,
                                        const PlanRequest& request,
                                        std::span<const SpmmKernel* const> kernels,
                                        const MachineCeilings& ceilings, int threads,
                                        const KernelScales* scales = nullptr);

/// Microseconds of one run: what the kernel counts over the ceilings, times what was learned.
double estimate_run(const SpmmKernel& kernel, const FormatSpec& format, const PatternStats& pattern,
                    const SpmmProblem& problem, const MachineCeilings& ceilings, bool from_cache,
                    const KernelScales* scales);

/// Whether another kernel makes this one uninteresting on `format`: the same family at a higher
/// instruction set, or anything beside the generic panels. Such a kernel would take a place among
/// the measured ones and win only by noise.
bool outdone(const SpmmKernel& kernel, const FormatSpec& format, const SpmmProblem& problem,
             std::span<const SpmmKernel* const> kernels);

}  // namespace rarefy::planning
