// The calibration on disk: one file beside the plans, `calibration.json`, that says which machine
// and build it is of.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "rarefy/calibration.h"

namespace rarefy::planning {

/// What a calibration must say to be of this machine and build.
struct CalibrationKey {
  std::string device, build;
};
CalibrationKey calibration_key(int threads);

/// The file's calibration, or nullopt with the reason: there is none, it cannot be read, or it is
/// of another machine or build.
std::optional<BlockCalibration> find_calibration(const std::filesystem::path& folder,
                                                 const CalibrationKey& key, std::string& reason);

/// Keeps it; a folder that cannot be written keeps nothing.
void store_calibration(const std::filesystem::path& folder, const BlockCalibration& calibration);

}  // namespace rarefy::planning
