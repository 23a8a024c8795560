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

/// Makes the folder where it is not there; throws `Error` (kIo) where it cannot be written.
void require_calibration_folder(const std::filesystem::path& folder);

/// Keeps it, or throws `Error` (kIo): unlike a plan, it is made because somebody asked for it. An
/// empty folder keeps nothing.
void store_calibration(const std::filesystem::path& folder, const BlockCalibration& calibration);

}  // namespace rarefy::planning
