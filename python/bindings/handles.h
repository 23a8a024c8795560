// How a packed weight travels through torch's operators: as two numbers in the memory of a tensor
// that owns it (python/rarefy/ops/handles.py says why).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <memory>

#include "array.h"
#include "packed.h"

namespace rarefy::python {

using HostHandle =
    nanobind::ndarray<nanobind::array_api, std::int64_t, nanobind::shape<2>, nanobind::device::cpu>;
using DeviceHandle = nanobind::ndarray<nanobind::array_api, std::int64_t, nanobind::shape<2>,
                                       nanobind::device::cuda>;

/// The handle of a weight on the CPU; keeps the weight.
HostHandle host_handle(const std::shared_ptr<Packed>& packed);

/// A handle on a GPU: a view of the memory there that holds the two numbers. As long as it lives,
/// its address alone names the weight, so that nobody reads it; it keeps the weight and `memory`.
/// @param memory the object that `address` belongs to
DeviceHandle device_handle(const std::shared_ptr<Packed>& packed, std::uintptr_t address,
                           int device, nanobind::object memory);

/// The weight of a handle tensor. That of a copy on a GPU is read back, which waits for the GPU.
/// Throws `Error` (kInvalidArgument) for what is no handle and for a weight that is gone or of
/// another process. Needs the interpreter's lock.
std::shared_ptr<Packed> weight_argument(const ArrayArgument& handle, const char* name);

}  // namespace rarefy::python
