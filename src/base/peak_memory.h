// How much memory the process had in use at most.
#pragma once

#include <cstddef>
#include <optional>

namespace rarefy {

/// Begins the count of the peak anew; false where the system cannot (only Linux can), and the peak
/// of the process so far goes on to count.
bool reset_peak_resident();

/// The most bytes that were resident at once since the reset; nothing where that is not known.
std::optional<std::size_t> peak_resident_bytes();

}  // namespace rarefy
