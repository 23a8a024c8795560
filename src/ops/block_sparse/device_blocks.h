// The products of one block pattern on a GPU for callers with memory and streams of their own:
// PyTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ops/spmm/device_linear.h"
#include "rarefy/block_sparse.h"
#include "rarefy/dtype.h"
#include "rarefy/error.h"

namespace rarefy {

enum class DeviceProduct : std::uint8_t {
  kLinear,      ///< y = x·Aᵀ + bias
  kTransposed,  ///< y = x·A
  kSamples,     ///< values = the stored blocks of xᵀ·y, both read
};
const char* to_string(DeviceProduct product);

/// One call: everything of one dtype, f16 or bf16, in the memory of the device.
struct DeviceBlockCall {
  DeviceProduct product = DeviceProduct::kLinear;
  DType dtype = DType::kBF16;
  std::uintptr_t values = 0;  ///< As a weight's (block_sparse.h); at a multiple of 16 bytes.
  DeviceRows x, y;            ///< Rows are tokens; those that are read at multiples of 16 bytes.
  std::uintptr_t bias = 0;    ///< f32, one an output; 0: none.
  std::int64_t tokens = 0;
};

/// What was chosen for a product, for up to `tokens` tokens.
struct DeviceBlockKernel {
  DeviceProduct product = DeviceProduct::kLinear;
  DType dtype = DType::kBF16;
  bool bias = false;
  std::int64_t tokens = 0;
  std::string kernel;  ///< "forward.features.64x64.bf16.f128…"
  double time_us = 0;  ///< As measured, or estimated.
  bool measured = false;
};

/// A block pattern on one device: for each product, dtype, epilogue and bucket of tokens (powers of
/// two) a kernel, made when it is first needed. Any thread may call; calls only launch.
///
/// Graphs: a call that a stream records launches too, and what it launched is kept for as long as
/// the process. Choosing, compiling and allocating are `prepare`'s, which refuses a stream that
/// records: make every call that a graph shall hold once before. Memory goes when the device has
/// done everything that was enqueued: not while a graph records.
class DeviceBlocks {
 public:
  virtual ~DeviceBlocks() = default;

  /// Whether there are kernels for the pattern's blocks and a dtype, and if not, why.
  [[nodiscard]] virtual Support supports(DType dtype) const = 0;

  /// Enqueues to `stream` (a CUstream of the device). False, with nothing done, where `prepare` has
  /// to come first. Throws `Error` (kInvalidArgument) for addresses and strides that do not fit.
  virtual bool enqueue(void* stream, const DeviceBlockCall& call) = 0;

  /// Makes ready for such a call. The first pattern of a kind (shape, blocks, density, bucket) has
  /// the kernels with the best estimates compiled and timed, which takes seconds and is
  /// remembered; those that are like it take the same. What the call writes is written to.
  /// @param measure false: takes the best estimate.
  /// Throws `Error`: kUnsupported while `stream` records, for what `supports` denies and without
  /// a compiler; kOutOfMemory.
  virtual void prepare(void* stream, const DeviceBlockCall& call, bool measure) = 0;

  /// Whether a stream has recorded a call: graphs may run it as long as the process does.
  [[nodiscard]] virtual bool recorded() const = 0;
  [[nodiscard]] virtual std::vector<DeviceBlockKernel> kernels() const = 0;
  [[nodiscard]] virtual std::size_t bytes() const = 0;  ///< Of lists in the device's memory.
};

/// Checks the pattern (by rows alone) and copies it. Throws `Error`: kInvalidArgument as `validate`
/// does, kUnsupported where there is no GPU that kernels run on.
std::unique_ptr<DeviceBlocks> blocks_on_device(const BlockPattern& pattern, int device);

}  // namespace rarefy
