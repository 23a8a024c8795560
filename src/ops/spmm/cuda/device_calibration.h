// What blocks of a weight cost on a GPU: as `rarefy calibrate --device cuda` measured it, or as it
// ordinarily is.
#pragma once

#include <optional>
#include <string>

#include "cuda/device.h"
#include "ops/spmm/calibration/calibration_file.h"
#include "rarefy/calibration.h"

namespace rarefy::gpu {

/// Device, driver and NVRTC, and this build's kernels: `calibration-cuda.json`.
CalibrationKey device_calibration_key(const cuda::DeviceFacts& device);

/// The calibration in the cache folder, read once for each device of a process. Where there is none
/// for this device, driver, NVRTC and build: nullopt and the reason, if any is asked for; a file
/// that is not used is told to the log callback.
std::optional<BlockCalibration> kept_device_calibration(const cuda::DeviceFacts& device,
                                                        std::string* reason = nullptr);

/// Keeps it in the cache folder, and for this process. Throws `Error` (kIo).
void keep_device_calibration(const cuda::DeviceFacts& device, const BlockCalibration& calibration);

/// What stands in where nobody calibrated: curves for 128, 512 and 4096 tokens, f16 and bf16, and
/// timings of blocks of 128, 64 and 32. Measured on one H100, elsewhere by multiprocessors, clock
/// and bandwidth.
BlockCalibration ordinary_calibration(const cuda::DeviceFacts& device);

/// What was kept, else what is ordinary.
BlockCalibration calibration_or_ordinary(const cuda::DeviceFacts& device, DType dtype);

}  // namespace rarefy::gpu
