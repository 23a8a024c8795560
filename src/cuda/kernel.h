// A kernel on a device: loaded once, launched many times.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "cuda/compiler.h"
#include "cuda/stream.h"

namespace rarefy::cuda {

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

struct Launch {
  Grid grid;
  unsigned threads = 1;          ///< Of a block, along x.
  std::size_t shared_bytes = 0;  ///< Dynamic shared memory of a block.
  unsigned cluster = 1;          ///< Blocks of a cluster, along x (sm_90 on).
  /// Programmatic dependent launch: may start before the kernel ahead in the stream has ended, and
  /// waits for it with griddepcontrol.wait (sm_90 on).
  bool overlaps_previous = false;
};

class Kernel {
 public:
  Kernel() = default;
  /// Loads `cubin` onto the device and takes the kernel `name` of it. Throws `Error`: kUnsupported
  /// for a cubin of another GPU.
  Kernel(const Device& device, const Cubin& cubin, const std::string& name);

  /// Compiles (or finds) `source` for the device, then loads it.
  Kernel(const Device& device, const Source& source, const std::string& name);

  explicit operator bool() const { return module_ != nullptr; }
  [[nodiscard]] const KernelFacts& facts() const;

  /// Allows this much dynamic shared memory (above 48 KB it must be asked for). Throws `Error` when
  /// the device has less.
  void allow_shared(std::size_t bytes) const;

  /// Blocks of this shape that run on one multiprocessor at once.
  [[nodiscard]] int blocks_per_multiprocessor(unsigned threads, std::size_t shared_bytes) const;

  /// Enqueues a launch. The arguments are passed as they are, so each must have the very type of
  /// the kernel's parameter (pointers: any). Throws `Error` for a launch that the driver refuses;
  /// what goes wrong while it runs shows when the stream is waited for.
  template <class... Args>
  void launch(const Stream& stream, const Launch& how, const Args&... args) const {
    std::array<void*, sizeof...(Args)> pointers{
        const_cast<void*>(static_cast<const void*>(&args))...};
    launch_raw(stream, how, pointers.data());
  }
  void launch_raw(const Stream& stream, const Launch& how, void** arguments) const;

 private:
  struct Module;
  std::shared_ptr<const Module> module_;
};

}  // namespace rarefy::cuda
