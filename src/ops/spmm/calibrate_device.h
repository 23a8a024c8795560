// Measuring blocks on a GPU: on its tensor cores, and one nonzero after the other.
#pragma once

#include <optional>
#include <string>

#include "rarefy/calibration.h"
#include "rarefy/progress.h"
#include "rarefy/threads.h"

namespace rarefy {

/// What is measured on a GPU unless somebody asks for something else: bf16 and f16, 128, 512 and
/// 4096 tokens, a 4096×4096 weight.
CalibrateOptions device_calibrate_options();

/// As `Planner::calibrate`, on the first GPU. The dense side is the fastest kernel for blocks, the
/// sparse side the fastest of those that a hybrid takes for its rest, and `whole_ns` is cuBLASLt's.
/// Kept beside the device's plans and used from then on. Throws `Error`: kUnsupported without a GPU
/// or for one that has no kernels of both kinds, kInvalidArgument, kIo.
BlockCalibration calibrate_device(const CalibrateOptions& options = device_calibrate_options(),
                                  Progress& progress = no_progress(),
                                  ThreadPool& pool = default_pool());

/// The calibration kept for the first GPU, its driver, its NVRTC and this build; of another it is
/// not used: `reason`, if any, then says so, and the log callback hears it once. Throws `Error`
/// (kUnsupported) without a GPU.
std::optional<BlockCalibration> device_calibration(std::string* reason = nullptr);

/// The curve that a weight of `dtype` is cut by for `n` tokens: of what was kept, else as it
/// ordinarily is on such a GPU.
BlockCurve device_curve(DType dtype, std::int64_t n);

}  // namespace rarefy
