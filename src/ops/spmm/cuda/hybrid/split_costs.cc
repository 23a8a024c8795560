#include "ops/spmm/cuda/hybrid/split_costs.h"

namespace rarefy::gpu {

double crossing_of(const BlockCalibration& calibration, const BlockCurve& curve, int side) {
  // The constants of both sides are paid whatever a block does.
  return curve.sparse_slope > 0 ? calibration.stored_ns(curve, side, side) / curve.sparse_slope
                                : 1.0;
}

SplitCosts costs_of(const Split& split, const Problem& problem, const BlockCalibration& calibration,
                    const BlockCurve& curve) {
  constexpr double kNsAUs = 1e3, kUnit = 1024;  // Of positions, as curves count.
  const double units = static_cast<double>(problem.m) * static_cast<double>(problem.k) / kUnit;
  const double tokens = static_cast<double>(problem.n) / static_cast<double>(curve.n);
  SplitCosts costs;
  costs.blocks_us =
      curve.call_us + tokens * units * split.stored *
                          calibration.stored_ns(curve, split.block_rows, split.block_cols) / kNsAUs;
  // The constant of the sparse side, over half of the calibrated weight, does not shrink with the
  // part that is sparse.
  const double nonzeros = static_cast<double>(split.rest.nnz) / kUnit;
  costs.rest_us = tokens * (nonzeros * curve.sparse_slope + units / 2 * curve.sparse_ns) / kNsAUs;
  return costs;
}

}  // namespace rarefy::gpu
