// What the two sides of a split take, by the curves of a calibration.
#pragma once

#include "ops/spmm/cuda/device_spmm.h"
#include "ops/spmm/cuda/hybrid/splits.h"
#include "rarefy/calibration.h"

namespace rarefy::gpu {

struct SplitCosts {
  double blocks_us = 0;  ///< The blocks that are stored, by the fastest kernel for them.
  double rest_us = 0;    ///< All other nonzeros, by the fastest kernel for these.
};

/// Where blocks of a side cost as much stored as by their nonzeros.
double crossing_of(const BlockCalibration& calibration, const BlockCurve& curve, int side);

/// @param curve of the calibration, of f16 or bf16, for the number of tokens nearest to the
///              problem's; times go with the tokens from there
SplitCosts costs_of(const Split& split, const Problem& problem, const BlockCalibration& calibration,
                    const BlockCurve& curve);

}  // namespace rarefy::gpu
