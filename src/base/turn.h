// One call at a time, for objects that cannot serve two.
#pragma once

#include <atomic>

#include "base/check.h"

namespace rarefy {

/// A model has one workspace: the call that holds this has it to itself. Throws `Error`
/// (kInvalidArgument) when another call holds it; nobody waits.
class Turn {
 public:
  explicit Turn(std::atomic<bool>& busy) : busy_(busy) {
    require(!busy_.exchange(true), "model: expected one call at a time, another is running");
  }
  ~Turn() { busy_.store(false); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  std::atomic<bool>& busy_;
};

}  // namespace rarefy
