// A weight's blocks by the band that they belong to, drawn with letters.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "rarefy/calibration.h"
#include "rarefy/matrix.h"

namespace rarefy::cli {

/// Share of the 64×64 blocks in each band, by Band.
using BandShares = std::array<double, 4>;
BandShares band_shares(const PatternStats& pattern, const BlockCurve& curve);

/// At most 64 × 24 letters: ' ' empty, '.' sparse, 'o' swing, '#' dense; a letter is the band of
/// all that it covers. A line above says which share of the 64×64 blocks is in which band.
std::string block_map(const PatternStats& pattern, const BlockCurve& curve);

}  // namespace rarefy::cli
