// Which weights may share a plan.
#pragma once

#include "base/json.h"
#include "rarefy/matrix.h"

namespace rarefy::planning {

/// The pattern part of a plan's key: density, a histogram of block densities and quantiles of the
/// row lengths, each rounded so coarsely that the same weight of another layer, pruned by the same
/// recipe, falls into the same class, and so finely that no kernel's time differs by more than the
/// noise within it. `PatternStats::fingerprint` tells single weights apart; this does not.
Json pattern_class(const PatternStats& pattern);

}  // namespace rarefy::planning
