// A plan as JSON: for the cache and for `rarefy explain --json`.
#pragma once

#include "base/json.h"
#include "rarefy/planner.h"

namespace rarefy::planning {

Json plan_to_json(const Plan& plan);

/// Throws for anything that `plan_to_json` would not write: a missing or mistyped field, steps with
/// gaps, an unknown format.
Plan plan_from_json(const Json& json);

}  // namespace rarefy::planning
