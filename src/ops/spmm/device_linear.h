// A frozen weight on a GPU for callers with memory and streams of their own: PyTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "rarefy/dtype.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy {

struct DeviceLinearOptions {
  int device = 0;              ///< As the driver counts.
  DType dtype = DType::kBF16;  ///< Of the weight, of what it is multiplied by and of the results.
  std::int64_t tokens = 1;     ///< At once that the kernel is chosen for.
  bool measure = true;         ///< false: measures the best estimate against dense only.
};

/// Rows in a device's memory, their elements side by side.
struct DeviceRows {
  std::uintptr_t address = 0;
  std::int64_t stride = 0;  ///< Elements between rows.
};

/// A weight M×K on one device, packed for one kernel. One stream at a time runs it. Its memory goes
/// when the device has done everything that was enqueued: not while a graph records.
class DeviceLinear {
 public:
  virtual ~DeviceLinear() = default;
  [[nodiscard]] virtual std::int64_t rows() const = 0;
  [[nodiscard]] virtual std::int64_t cols() const = 0;
  [[nodiscard]] virtual DType dtype() const = 0;
  [[nodiscard]] virtual const std::string& kernel() const = 0;  ///< "lane.r4…"
  [[nodiscard]] virtual double time_us() const = 0;             ///< As measured when chosen.
  [[nodiscard]] virtual std::size_t bytes() const = 0;          ///< In the device's memory.

  /// The most tokens at once that `run` is for: beyond, writing the weight out with its zeros and
  /// multiplying densely is faster. 0 when dense is what is fastest in any case.
  [[nodiscard]] virtual std::int64_t most_tokens() const = 0;

  /// Y = X·Aᵀ for n tokens. Launches only, so that a graph may record it.
  /// @param stream a CUstream of the device
  virtual void run(void* stream, const DeviceRows& x, const DeviceRows& y,
                   std::int64_t n) const = 0;

  /// Where the weight lies with its zeros, M rows of K elements one after the other; 0 when it is
  /// packed: `expand` writes it there.
  [[nodiscard]] virtual std::uintptr_t dense() const = 0;
  /// Launches only.
  virtual void expand(void* stream, std::uintptr_t dense) const = 0;
};

/// Finds the fastest kernel for the weight, as a decoder does: the first of a kind (shape, dtype,
/// density) is searched, those that are like it take the same. Throws `Error`: kUnsupported where
/// there is no GPU that kernels run on, kOutOfMemory.
std::unique_ptr<DeviceLinear> pack_on_device(const RowSource& weight,
                                             const DeviceLinearOptions& options,
                                             ThreadPool& pool = default_pool());

}  // namespace rarefy
