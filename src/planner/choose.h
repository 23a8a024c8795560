// The decision: from estimated and measured candidates to one format, and the reasons of the rest.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "planner/search_space.h"

namespace rarefy::planning {

/// Formats worth measuring, best first by the estimated objective Σ weight·time/time_dense; those
/// that exceed the memory budget or lack a kernel at some n are left out.
struct RankedFormat {
  FormatSpec format;
  double score = 0;
};
std::vector<RankedFormat> rank_formats(std::span<const Entry> entries, const PlanRequest& request);

/// Picks the format: the lowest objective among those that fit the budget, dense unless a sparse
/// one is faster by more than the noise. Where dense was measured, only measured formats compete.
/// Returns nullopt when nothing fits the budget. Marks the chosen candidates (the format's best
/// kernel at each n) and gives every other one its reason.
std::optional<FormatSpec> choose_format(std::span<Entry> entries, const PlanRequest& request);

/// The format's fastest possible candidate at `n`, or nullptr; measured ones before estimated ones.
const Entry* best_of(std::span<const Entry> entries, const FormatSpec& format, std::int64_t n);

/// The fastest dense candidate's time at `n`, measured where any was; 0 when there is none.
double dense_time_us(std::span<const Entry> entries, std::int64_t n);

}  // namespace rarefy::planning
