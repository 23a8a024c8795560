// How one weight would run on a device, and what else was considered: what `explain` sees of a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "rarefy/dtype.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy {

/// A kernel and what became of it.
struct DeviceCandidate {
  std::string kernel;  ///< "composed.csr16.g8.v4…"; a family's name when it takes none of this.
  double estimate_us = 0;  ///< 0: none.
  double measured_us = 0;  ///< 0: not measured.
  std::size_t bytes = 0;   ///< Of the packed weight; 0: not packed.
  bool chosen = false;
  bool refused = false;  ///< It cannot run this.
  std::string reason;    ///< Why it was not chosen.
};

struct DevicePlan {
  std::string device;  ///< "NVIDIA H100 80GB HBM3"
  std::string kernel;  ///< Chosen.
  double time_us = 0;
  std::size_t bytes = 0, dense_bytes = 0;
  bool from_cache = false;  ///< Whether it was chosen earlier; the candidates are measured anew.
  std::vector<DeviceCandidate> candidates;  ///< Fastest first, then by estimate.
};

/// Plans a product of `weight`, in `dtype`, with so many tokens, as loading a model does. Throws
/// `Error` (kUnsupported) for what device_decoder_support says.
DevicePlan plan_on_device(const RowSource& weight, std::int64_t tokens, DType dtype,
                          ThreadPool& pool = default_pool());

}  // namespace rarefy
