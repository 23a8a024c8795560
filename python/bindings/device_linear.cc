// A frozen weight on a GPU beside torch: its memory, its streams, its products where many tokens
// are better multiplied densely. Calls keep the interpreter's lock: a launch takes microseconds,
// and two threads must not use a weight's scratch memory at once.
#include "ops/spmm/device_linear.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>

#include "array.h"
#include "base/check.h"
#include "bindings.h"
#include "handles.h"
#include "packed.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace rarefy::python {
namespace {

const DeviceLinear& on_device(const Packed& packed, const Place& place) {
  const DeviceLinear* weight = packed.on_device(place.index);
  require(weight != nullptr,
          "weight: expected one that is packed for {}, got one that is not; Weight.to('{}'), or "
          "moving its layer there, packs it",
          place.name(), place.name());
  return *weight;
}

void place_on_device(Packed& weight, int device, std::int64_t tokens, bool measure) {
  require(device >= 0, "device: expected a number from 0 on, got {}", device);
  const nb::gil_scoped_release unlocked;
  weight.place_on_device({.device = device, .tokens = tokens, .measure = measure}, default_pool());
}

/// (kernel, bytes, microseconds), or None.
std::optional<nb::tuple> describe_on_device(const Packed& weight, int device) {
  const DeviceLinear* placed = weight.on_device(device);
  if (placed == nullptr) return std::nullopt;
  return nb::make_tuple(placed->kernel(), placed->bytes(), placed->time_us());
}

/// out = x·Aᵀ over the last dimension, enqueued on the current stream. False, with nothing done,
/// where the caller is to multiply densely.
bool linear(const ArrayArgument& x_argument, const ArrayArgument& handle,
            const ArrayArgument& out_argument) {
  const std::shared_ptr<Packed> packed = weight_argument(handle, "weight");
  const Array x = Array::on_cuda(x_argument, "x");
  const DeviceLinear& weight = on_device(*packed, x.place());
  const Array out = Array::at(x.place(), out_argument, "out");
  require(x.ndim() >= 1 && x.shape(x.ndim() - 1) == weight.cols() && x.dtype() == weight.dtype(),
          "x: expected {} […, {}] as the weight, got {}", to_string(weight.dtype()), weight.cols(),
          x.describe());
  MatrixRef from;
  MatrixRef to;
  const bool has_rows = x.rows(from);
  require(out.rows(to) && out.dtype() == weight.dtype() && to.cols == weight.rows() &&
              (!has_rows || to.rows == from.rows),
          "out: expected {} rows of {} in memory, got {}", to_string(weight.dtype()), weight.rows(),
          out.describe());
  if (!has_rows || from.rows > weight.most_tokens()) return false;
  if (from.rows == 0 || to.cols == 0) return true;
  const auto address = [](void* data) { return reinterpret_cast<std::uintptr_t>(data); };
  weight.run(current_stream(x_argument, x.place()), {address(from.data), from.row_stride},
             {address(to.data), to.row_stride}, from.rows);
  return true;
}

/// Writes the weight with its zeros to `out`, M×K on a device that has it.
void expand(const ArrayArgument& handle, const ArrayArgument& out_argument) {
  const std::shared_ptr<Packed> packed = weight_argument(handle, "weight");
  const Array out = Array::on_cuda(out_argument, "out");
  const DeviceLinear& weight = on_device(*packed, out.place());
  require(out.ndim() == 2 && out.shape(0) == weight.rows() && out.shape(1) == weight.cols(),
          "out: expected {} [{}, {}], got {}", to_string(weight.dtype()), weight.rows(),
          weight.cols(), out.describe());
  void* data = out.contiguous(weight.dtype());
  if (out.size() == 0) return;
  weight.expand(current_stream(out_argument, out.place()), reinterpret_cast<std::uintptr_t>(data));
}

using DenseArray = nb::ndarray<nb::array_api, nb::device::cuda>;

nb::dlpack::dtype dlpack_dtype(DType dtype) {
  const auto code =
      dtype == DType::kBF16 ? nb::dlpack::dtype_code::Bfloat : nb::dlpack::dtype_code::Float;
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(8 * size_of(dtype)), 1};
}

/// A view of the weight where it lies dense; None where it is packed.
std::optional<DenseArray> dense(const ArrayArgument& handle, int device) {
  const std::shared_ptr<Packed> packed = weight_argument(handle, "weight");
  const DeviceLinear& weight = on_device(*packed, Place::cuda(device));
  if (weight.dense() == 0) return std::nullopt;
  const nb::capsule owner(new std::shared_ptr<Packed>(packed), [](void* kept) noexcept {
    delete static_cast<std::shared_ptr<Packed>*>(kept);
  });
  // NOLINTNEXTLINE(performance-no-int-to-ptr): never followed here.
  auto* data = reinterpret_cast<void*>(weight.dense());
  return DenseArray(
      data, {static_cast<std::size_t>(weight.rows()), static_cast<std::size_t>(weight.cols())},
      owner, {}, dlpack_dtype(weight.dtype()), nb::device::cuda::value, device);
}

}  // namespace

void bind_device_linear(nb::module_& module) {
  module.def("place_on_device", &place_on_device, "weight"_a, "device"_a, "tokens"_a = 1,
             "measure"_a = true);
  module.def(
      "describe_on_device", &describe_on_device, "weight"_a, "device"_a,
      nb::sig("def describe_on_device(weight: Matrix, device: int) -> tuple[str, int, float] "
              "| None"));
  module.def("device_linear", &linear, "x"_a, "weight"_a, "out"_a);
  module.def("device_expand", &expand, "weight"_a, "out"_a);
  module.def("device_dense", &dense, "weight"_a, "device"_a,
             nb::sig("def device_dense(weight: rarefy.typing.Array, device: int) -> "
                     "rarefy.typing.Array | None"));
}

}  // namespace rarefy::python
