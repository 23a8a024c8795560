// Where kernels are chosen for callers with memory and streams of their own.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "cuda/device.h"
#include "cuda/stream.h"

namespace rarefy::cuda {

/// What choosing needs of a device.
template <class Chooser>
struct Workshop {
  explicit Workshop(const Device& on) : device(on), stream(on) {}

  /// That of a device, made when it is first asked for. Kept for ever: weights and patterns may go
  /// after everything else.
  static Workshop& of(int index) {
    static auto* mutex = new std::mutex;
    static auto* workshops = new std::map<int, std::unique_ptr<Workshop>>;
    const Device& device = Device::get(index);
    const std::scoped_lock lock(*mutex);
    std::unique_ptr<Workshop>& workshop = (*workshops)[index];
    if (workshop == nullptr) workshop = std::make_unique<Workshop>(device);
    return *workshop;
  }

  const Device& device;
  Stream stream;
  Chooser chooser;
  std::mutex mutex;  ///< One choice at a time: measurements would disturb each other.
};

}  // namespace rarefy::cuda
