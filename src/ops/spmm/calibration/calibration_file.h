// A calibration on disk: one file beside the plans that says which machine and build it is of,
// `calibration.json` of the CPU, `calibration-cuda.json` of a GPU.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "rarefy/calibration.h"

namespace rarefy {

/// What a calibration must say to be of this machine and build, and the file that it lies in.
struct CalibrationKey {
  std::string device, build;
  std::string file = "calibration.json";
  std::string command = "rarefy calibrate";  ///< That makes it.
};

/// Of the CPU, with so many threads.
CalibrationKey cpu_calibration_key(int threads);

/// The file's calibration, or nullopt with the reason: there is none, it cannot be read, or it is
/// of another machine or build. A file that is there and not used is told to the log callback.
std::optional<BlockCalibration> find_calibration(const std::filesystem::path& folder,
                                                 const CalibrationKey& key, std::string& reason);

/// Makes the folder where it is not there; throws `Error` (kIo) where it cannot be written.
void require_calibration_folder(const std::filesystem::path& folder);

/// Keeps it, or throws `Error` (kIo): unlike a plan, it is made because somebody asked for it. An
/// empty folder keeps nothing.
void store_calibration(const std::filesystem::path& folder, const std::string& file,
                       const BlockCalibration& calibration);

}  // namespace rarefy
