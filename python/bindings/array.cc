#include "array.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "base/check.h"
#include "dlpack.h"

namespace nb = nanobind;

namespace rarefy::python {
namespace {

/// The table of a tensor type, nullptr where it publishes none. Types are remembered: torch has two
/// (Tensor, Parameter) and its users a few more.
const dlpack::ExchangeApi* exchange_api(PyTypeObject* type) {
  struct Known {
    PyTypeObject* type;
    const dlpack::ExchangeApi* api;
  };
  constexpr std::size_t kRemembered = 16;
  static std::vector<Known> known;  // Guarded by the GIL.
  for (const Known& entry : known) {
    if (entry.type == type) return entry.api;
  }
  const nb::object capsule =
      nb::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), dlpack::kAttribute));
  if (!capsule.is_valid()) PyErr_Clear();
  const dlpack::ExchangeApi* api = nullptr;
  if (capsule.is_valid() && PyCapsule_IsValid(capsule.ptr(), dlpack::kCapsule) != 0) {
    api = static_cast<const dlpack::ExchangeApi*>(
        PyCapsule_GetPointer(capsule.ptr(), dlpack::kCapsule));
    while (api != nullptr && api->version.major != dlpack::kMajor) api = api->older;
  }
  if (known.size() < kRemembered) {
    Py_INCREF(reinterpret_cast<PyObject*>(type));  // Another type could come to lie here otherwise.
    known.push_back({type, api});
  }
  return api;
}

/// First line of the Python exception that is set, which is cleared: torch appends a C++ backtrace.
std::string pending_message() {
  const nb::python_error error;
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

std::optional<DType> dtype_of(nb::dlpack::dtype dtype) {
  using Code = nb::dlpack::dtype_code;
  if (dtype.lanes != 1) return std::nullopt;
  const int bits = dtype.bits;
  const auto pick = [bits](DType b8, DType b16, DType b32, DType b64) -> std::optional<DType> {
    switch (bits) {
      case 8:
        return b8;
      case 16:
        return b16;
      case 32:
        return b32;
      case 64:
        return b64;
      default:
        return std::nullopt;
    }
  };
  switch (static_cast<Code>(dtype.code)) {
    case Code::Float:
      if (bits == 8) return std::nullopt;
      return pick(DType::kF32, DType::kF16, DType::kF32, DType::kF64);
    case Code::Bfloat:
      return bits == 16 ? std::optional(DType::kBF16) : std::nullopt;
    case Code::Int:
      return pick(DType::kI8, DType::kI16, DType::kI32, DType::kI64);
    case Code::UInt:
      return pick(DType::kU8, DType::kU16, DType::kU32, DType::kU64);
    case Code::Bool:
      return bits == 8 ? std::optional(DType::kBool) : std::nullopt;
    default:
      return std::nullopt;
  }
}

}  // namespace

std::string type_of(nb::handle object) {
  const nb::object type = nb::borrow(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())));
  return nb::cast<std::string>(nb::object(type.attr("__name__")));
}

std::string Place::name() const {
  if (is_cpu()) return "the CPU";
  if (is_cuda()) return fmt::format("cuda:{}", index);
  return fmt::format("device {}:{} (DLPack's numbers)", type, index);
}

void* current_stream(nb::handle tensor, const Place& place) {
  const dlpack::ExchangeApi* api = exchange_api(Py_TYPE(tensor.ptr()));
  if (api == nullptr || api->current_stream == nullptr) {
    fail(ErrorKind::kUnsupported, "x: expected a tensor whose library tells its stream, got a {}",
         type_of(tensor));
  }
  void* stream = nullptr;
  if (api->current_stream(place.type, place.index, &stream) != 0)
    fail(ErrorKind::kInternal, "x: {} has no current stream ({})", place.name(), pending_message());
  return stream;
}

Array::Array(nb::handle object, const char* name) : Array(object, name, false) {
  expect_at({});
}

Array Array::output(nb::handle object, const char* name) {
  Array array(object, name, true);
  array.expect_at({});
  return array;
}

Array Array::at(const Place& place, nb::handle object, const char* name) {
  Array array(object, name, true);
  array.expect_at(place);
  return array;
}

Array Array::on_cuda(nb::handle object, const char* name) {
  Array array(object, name, false);
  require(array.place_.is_cuda(), "{}: expected an array on a CUDA device, got one on {}", name,
          array.place_.name());
  return array;
}

Array Array::anywhere(nb::handle object, const char* name) {
  return {object, name, false};
}

void Array::expect_at(const Place& place) const {
  if (!place_.is(place)) {
    fail(ErrorKind::kInvalidArgument, "{}: expected an array on {}, got one on {}", name_,
         place.name(), place_.name());
  }
}

Array::Array(nb::handle object, const char* name, bool writable) : name_(name) {
  nb::dlpack::dltensor view{};
  if (const dlpack::ExchangeApi* api = exchange_api(Py_TYPE(object.ptr()))) {
    if (api->view_of_object(object.ptr(), &view) != 0) {
      const std::string message = pending_message();
      fail(ErrorKind::kInvalidArgument,
           "{}: expected an array with memory of its own, got a {} ({})", name, type_of(object),
           message);
    }
    take(view);
    return;
  }
  if (!nb::ndarray_check(object)) {
    fail(ErrorKind::kInvalidArgument,
         "{}: expected an array (of numpy, torch, or another that speaks DLPack), got {}", name,
         type_of(object));
  }
  if (writable) {
    nb::try_cast(object, owner_);
  } else if (nb::ndarray<nb::ro> read_only; nb::try_cast(object, read_only)) {
    owner_ = nb::ndarray<>(read_only);
  }
  if (!owner_.is_valid()) {
    fail(ErrorKind::kInvalidArgument,
         "{}: expected {} array of numbers, got a {} that DLPack cannot describe{}", name,
         writable ? "a writable" : "an", type_of(object),
         writable ? " so (read-only, or no numbers)" : "");
  }
  view.data = owner_.data();  // With its offset.
  view.device = {owner_.device_type(), owner_.device_id()};
  view.ndim = static_cast<std::int32_t>(owner_.ndim());
  view.dtype = owner_.dtype();
  view.shape = const_cast<std::int64_t*>(owner_.shape_ptr());
  view.strides = const_cast<std::int64_t*>(owner_.stride_ptr());
  take(view);
}

void Array::take(const nb::dlpack::dltensor& tensor) {
  place_ = {tensor.device.device_type, tensor.device.device_id};
  require(tensor.ndim <= kMaxDims, "{}: expected at most {} dimensions, got {}", name_, kMaxDims,
          tensor.ndim);
  const std::optional<DType> dtype = dtype_of(tensor.dtype);
  require(dtype.has_value(),
          "{}: expected float, bfloat16, integer or bool elements, got DLPack's type {} of {} bits "
          "x {}",
          name_, tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes);
  dtype_ = *dtype;
  ndim_ = tensor.ndim;
  std::int64_t stride = 1;
  for (int axis = ndim_ - 1; axis >= 0; --axis) {
    const auto i = static_cast<std::size_t>(axis);
    shape_[i] = tensor.shape[axis];
    strides_[i] = tensor.strides != nullptr ? tensor.strides[axis] : stride;
    stride *= std::max<std::int64_t>(shape_[i], 1);
  }
  data_ = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  require(
      tensor.data != nullptr || size() == 0,
      "{}: expected an array with memory of its own, got one without (of torch's FakeTensorMode, "
      "perhaps)",
      name_);
}

std::int64_t Array::size() const {
  std::int64_t size = 1;
  for (int axis = 0; axis < ndim_; ++axis) size *= shape(axis);
  return size;
}

std::string Array::describe() const {
  return fmt::format("{} {}", to_string(dtype_),
                     to_string(Shape(shape_.begin(), shape_.begin() + ndim_)));
}

ConstMatrixRef Array::matrix() const {
  return mutable_matrix();
}

MatrixRef Array::mutable_matrix() const {
  require(ndim_ == 2, "{}: expected a matrix, got {}", name_, describe());
  MatrixRef out;
  require(rows(out),
          "{}: expected rows that lie apart and whose elements lie side by side, got strides {}",
          name_, to_string(Shape(strides_.begin(), strides_.begin() + ndim_)));
  return out;
}

bool Array::rows(MatrixRef& out) const {
  require(ndim_ >= 1, "{}: expected at least one dimension, got a scalar", name_);
  const std::int64_t cols = shape(ndim_ - 1);
  const auto last = static_cast<std::size_t>(ndim_ - 1);
  out = {data_, dtype_, cols == 0 ? 1 : size() / cols, cols, cols};
  if (cols == 0) {
    for (int axis = 0; axis < ndim_ - 1; ++axis) out.rows *= shape(axis);
  }
  if (out.rows == 0 || cols == 0) return true;
  if (cols > 1 && strides_[last] != 1) return false;
  // Leading dimensions of one element may have any stride; the others must be multiples of the
  // innermost of them.
  std::int64_t expected = 0;
  for (int axis = ndim_ - 2; axis >= 0; --axis) {
    const auto i = static_cast<std::size_t>(axis);
    if (shape_[i] == 1) continue;
    if (expected == 0) {
      out.row_stride = strides_[i];
      if (out.row_stride < cols) return false;
      expected = out.row_stride;
    } else if (strides_[i] != expected) {
      return false;
    }
    expected *= shape_[i];
  }
  return true;
}

bool Array::is_contiguous() const {
  std::int64_t stride = 1;
  for (int axis = ndim_ - 1; axis >= 0; --axis) {
    const auto i = static_cast<std::size_t>(axis);
    if (shape_[i] != 1 && strides_[i] != stride && size() != 0) return false;
    stride *= shape_[i];
  }
  return true;
}

void* Array::contiguous(DType dtype) const {
  require(dtype_ == dtype, "{}: expected {}, got {}", name_, to_string(dtype), describe());
  require(is_contiguous(), "{}: expected contiguous elements, got strides {}", name_,
          to_string(Shape(strides_.begin(), strides_.begin() + ndim_)));
  return data_;
}

}  // namespace rarefy::python
