// In which order candidates are measured, and what a search learns of their estimates.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "ops/spmm/cuda/family_scales.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy::gpu {

/// Whoever is estimated at more than this many times the best is measured only if nothing else is
/// left of its family.
constexpr double kHopeless = 4;

/// Names of the best estimates of every family within kHopeless of the best, `of_each` each:
/// families' models err differently, and one with many kernels that are alike would crowd out the
/// others. By estimates as they were modelled, so that no family is shut out by what was learned.
/// @param candidates the best estimate first
std::set<std::string> leaders(const std::vector<Candidate>& candidates, int of_each);

/// Multiplies estimates with what was learned of them and puts the best first.
void correct(std::vector<Candidate>& candidates, const Problem& problem,
             const FamilyScales& scales);

/// Adds what a search has measured: of each family its fastest kernel. `tried` has corrected
/// estimates.
void learn(FamilyScales& scales, const Problem& problem, const std::vector<Tried>& tried);

}  // namespace rarefy::gpu
