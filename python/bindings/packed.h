// A packed weight as Python holds it, and the registry through which torch's operators find it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "ops/spmm/device_linear.h"
#include "rarefy/matrix.h"
#include "rarefy/planner.h"

namespace rarefy::python {

/// A weight with its plan; its transpose and its copies on GPUs once somebody asks for them.
/// Immutable otherwise.
class Packed {
 public:
  /// {a number of this process, a number of this weight}: what the handle tensor of a weight holds.
  using Handle = std::array<std::int64_t, 2>;

  static std::shared_ptr<Packed> make(MatrixPtr matrix);
  /// @param plan how it runs; it was packed in the plan's format.
  static std::shared_ptr<Packed> make(MatrixPtr matrix, Plan plan);
  /// The weight of a handle. Throws `Error` (kInvalidArgument) for one of another process and for
  /// a weight that is gone.
  static std::shared_ptr<Packed> find(const Handle& handle, const char* argument);
  ~Packed();
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;

  [[nodiscard]] const MatrixPtr& matrix() const { return matrix_; }
  /// Without steps where nobody planned it: every call takes the default kernel.
  [[nodiscard]] const Plan& plan() const { return linear_.plan(); }
  [[nodiscard]] Handle& handle() { return handle_; }

  /// C = act(A·B + bias) + residual with the plan's kernel, or the default one.
  void run(const SpmmArgs& args, ThreadPool& pool) const { linear_.run(args, pool); }

  /// Aᵀ in the format of A where that can hold it, otherwise as a bitmap or CSR; packed at the
  /// first call, which needs the dense matrix twice for a moment, and kept.
  std::shared_ptr<Packed> transposed(ThreadPool& pool);

  /// Packs the weight for a GPU too, in its own dtype, unless that is done.
  void place_on_device(const DeviceLinearOptions& options, ThreadPool& pool);
  /// The weight on that GPU, as long as this; nullptr where it was not placed.
  [[nodiscard]] const DeviceLinear* on_device(int device) const;

 private:
  Packed(MatrixPtr matrix, Plan plan);

  MatrixPtr matrix_;
  Linear linear_;
  Handle handle_{};
  std::mutex transposing_;
  std::shared_ptr<Packed> transposed_;
  std::mutex placing_;
  mutable std::mutex places_mutex_;
  std::vector<std::pair<int, std::unique_ptr<DeviceLinear>>> places_;  ///< By GPU; never removed.
};

}  // namespace rarefy::python
