// Memory that a kernel needs for one call: kept by the thread and handed out again, so that a
// decode loop does not pay for page faults at every operator.
#pragma once

#include <cstddef>

#include "rarefy/tensor.h"

namespace rarefy {

/// At least `bytes` of 64-byte aligned, uninitialised memory, from this thread's free list and back
/// to it. Must be destroyed on the thread that made it (the memory itself may be used by any).
class Scratch {
 public:
  explicit Scratch(std::size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <class T>
  T* as() {
    return buffer_.as<T>();
  }

 private:
  Buffer buffer_;
};

}  // namespace rarefy
