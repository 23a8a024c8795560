// One GPU: what it has, and its primary context.
#pragma once

#include <cstddef>
#include <string>

#include "cuda/abi.h"
#include "cuda/arch.h"
#include "rarefy/error.h"

namespace rarefy::cuda {

struct DeviceFacts {
  int index = 0;
  std::string name;  ///< "NVIDIA H100 80GB HBM3"
  std::string uuid;
  int major = 0, minor = 0;  ///< Compute capability.
  int multiprocessors = 0;
  int threads_per_multiprocessor = 0;
  int registers_per_multiprocessor = 0;
  std::size_t shared_per_multiprocessor = 0;
  std::size_t shared_per_block = 0;  ///< The most that a block may opt in to.
  std::size_t l2_bytes = 0;
  std::size_t memory_bytes = 0;
  double clock_ghz = 0;        ///< Boost clock.
  double memory_gb_per_s = 0;  ///< Clock times bus width: the data sheet's, never reached.
  bool has_memory_pools = false;

  [[nodiscard]] Arch arch() const { return Arch::of(major, minor); }
};

/// Facts of an H100 (SXM): what search spaces are listed and tested for where there is no GPU.
DeviceFacts h100_facts();

/// A GPU that kernels can run on; lives as long as the process. Its primary context is shared with
/// PyTorch and others in the process.
class Device {
 public:
  /// GPUs that the driver shows; 0 without a driver. Never throws.
  static int count();

  /// Throws `Error`: kUnsupported without a driver, for an index that is not there, or for a GPU
  /// below compute capability 8.0.
  static const Device& get(int index = 0);

  /// What the driver says of any GPU, also of one that is too old. Throws `Error` (kUnsupported).
  static DeviceFacts facts_of(int index);

  /// Whether kernels run on a GPU of these facts, and if not, why.
  static Support supported(const DeviceFacts& facts);

  [[nodiscard]] const DeviceFacts& facts() const { return facts_; }

  /// Whether launches may overlap the kernel ahead (Launch::overlaps_previous), in graphs too.
  [[nodiscard]] bool overlaps_kernels() const;

  /// Makes this device's context current in the calling thread: what most driver calls need.
  void bind() const;

  /// Waits until everything enqueued so far has run; throws what went wrong in it.
  void synchronize() const;

  struct Memory {
    std::size_t free = 0, total = 0;
  };
  [[nodiscard]] Memory memory() const;

  /// Gives the memory that the pool keeps for later back to the driver.
  void trim_pool() const;

 private:
  explicit Device(int index);

  DeviceFacts facts_;
  abi::CUdevice device_ = 0;
  abi::CUcontext context_ = nullptr;
  abi::CUmemoryPool pool_ = nullptr;
};

}  // namespace rarefy::cuda
