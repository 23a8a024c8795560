// From a checkpoint to a decoder on a GPU.
#pragma once

#include <memory>
#include <string>

#include "ops/decoder/device_decoder.h"
#include "rarefy/checkpoint.h"
#include "rarefy/config.h"
#include "rarefy/model.h"

namespace rarefy::model {

/// Whether a model is to go to a GPU. Throws `Error` (kUnsupported) when that is asked for and
/// cannot be.
/// @param note gets why a GPU that seems to be there is left alone; stays as it is on machines
///             without one
bool runs_on_device(Device device, std::string& note);

/// Uploads one layer after the other. Throws `Error`: kCorrupt as loading on the CPU does,
/// kOutOfMemory when the device has no room or the weights exceed the budget of `options`.
std::unique_ptr<DeviceDecoder> load_on_device(const Checkpoint& checkpoint,
                                              const ModelConfig& config, DType dtype,
                                              const LoadOptions& options, ThreadPool& pool);

}  // namespace rarefy::model
