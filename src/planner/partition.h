// Hybrid formats worth a place among the candidates of a weight: where its blocks are cut comes
// from the calibration and the pattern.
#pragma once

#include <vector>

#include "rarefy/calibration.h"
#include "rarefy/matrix.h"
#include "rarefy/planner.h"

namespace rarefy::planning {

/// The curve that stands in where nobody calibrated: measured on two cores of a Xeon with AMX.
BlockCurve assumed_curve(std::int64_t n);

/// At most three: tiles alone where some are empty, the same with rows sorted where rows died, and
/// the cheapest split between tiles and lists where it promises more than 2 %. None for other
/// dtypes than bf16, for few tokens, and where blocks are all alike.
std::vector<FormatSpec> hybrid_formats(const PatternStats& pattern, DType dtype,
                                       const PlanRequest& request,
                                       const BlockCalibration* calibration);

}  // namespace rarefy::planning
