// One search from candidates to plan; everything that a machine decides comes in through arguments.
#pragma once

#include <span>
#include <vector>

#include "planner/kernel_scales.h"
#include "planner/sampling.h"
#include "planner/search_space.h"

namespace rarefy::planning {

struct SearchInputs {
  const RowSource& weight;
  const PatternStats& pattern;
  const PlanRequest& request;
  std::span<const FormatSpec> nm_formats;  ///< N:M that the pattern keeps; hybrids.
  std::span<const SpmmKernel* const> kernels;
  const MachineCeilings& ceilings;
  int threads = 1;
  const KernelScales* scales = nullptr;  ///< nullptr: nothing was learned yet.
};

struct SearchResult {
  Plan plan;
  bool complete = true;  ///< False when the time budget ended the measurement early.
};

/// Finds a plan. `runner` is nullptr when nothing may be measured. Throws `Error` (kOutOfMemory)
/// when no format fits the budget.
SearchResult search(const SearchInputs& inputs, TrialRunner* runner);

/// Chooses again among candidates that are already timed, under the request's budget and formats:
/// what a plan becomes when a budget over many weights forbids its own choice. Throws like
/// `search`.
Plan choose_again(const SearchInputs& inputs, const Plan& plan);

/// Kernels of `format` for every n, cut at powers of two: the winners at the workloads' n, between
/// two different winners the crossover found by bisection (measured when `runner` is given and time
/// is left), beyond them estimates scaled by what was measured.
std::vector<PlanStep> make_steps(const SearchInputs& inputs, std::span<const Entry> entries,
                                 const FormatSpec& format, TrialRunner* runner);

}  // namespace rarefy::planning
