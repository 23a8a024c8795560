// Arrays that callers pass, as memory. Nothing is copied and no framework's header is needed.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <array>
#include <cstdint>
#include <string>

#include "rarefy/dtype.h"
#include "rarefy/tensor.h"

namespace rarefy::python {

/// An argument that `Array` looks at: any object, which stubs call an array.
class ArrayArgument : public nanobind::object {
  static bool any(nanobind::handle) { return true; }
  NB_OBJECT_DEFAULT(ArrayArgument, nanobind::object, "rarefy.typing.Array", any)
};

std::string type_of(nanobind::handle object);  ///< The name of its type.

/// Where an array lies, in DLPack's numbers.
struct Place {
  std::int32_t type = nanobind::device::cpu::value;
  std::int32_t index = 0;

  static Place cuda(std::int32_t index) { return {nanobind::device::cuda::value, index}; }
  [[nodiscard]] bool is_cpu() const { return type == nanobind::device::cpu::value; }
  [[nodiscard]] bool is_cuda() const { return type == nanobind::device::cuda::value; }
  /// On the CPU there is one memory, whatever the index.
  [[nodiscard]] bool is(const Place& other) const {
    return type == other.type && (index == other.index || is_cpu());
  }
  [[nodiscard]] std::string name() const;  ///< "the CPU", "cuda:0"
};

/// A view of an array's memory, valid as long as the array is and this. torch's tensors come
/// through DLPack's table of C functions (about 0.1 µs; `__dlpack__` takes 3), others through
/// nanobind's import.
class Array {
 public:
  static constexpr int kMaxDims = 16;

  /// An array on the CPU.
  /// @param name the argument, for messages. Throws `Error` (kInvalidArgument) for what is no
  /// array, lies elsewhere, has no memory, too many dimensions or an unknown dtype.
  Array(nanobind::handle object, const char* name);
  /// The same for an array that will be written.
  static Array output(nanobind::handle object, const char* name);
  /// An array at `place`, to read or to write; its memory may be out of the CPU's reach.
  static Array at(const Place& place, nanobind::handle object, const char* name);
  /// An array on a CUDA device, whichever.
  static Array on_cuda(nanobind::handle object, const char* name);
  /// An array to read, wherever it lies.
  static Array anywhere(nanobind::handle object, const char* name);

  [[nodiscard]] const Place& place() const { return place_; }
  [[nodiscard]] int ndim() const { return ndim_; }
  [[nodiscard]] std::int64_t shape(int axis) const {
    return shape_[static_cast<std::size_t>(axis)];
  }
  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] std::int64_t size() const;
  [[nodiscard]] std::string describe() const;  ///< "f32 [4, 64]"

  /// As a matrix; throws unless it has two dimensions whose columns lie side by side.
  [[nodiscard]] ConstMatrixRef matrix() const;
  [[nodiscard]] MatrixRef mutable_matrix() const;
  /// As rows of its last dimension, all others flattened; nothing when strides don't allow it.
  [[nodiscard]] bool rows(MatrixRef& out) const;
  /// As contiguous elements; throws unless they are, of `dtype`.
  [[nodiscard]] void* contiguous(DType dtype) const;
  [[nodiscard]] bool is_contiguous() const;

 private:
  Array(nanobind::handle object, const char* name, bool writable);
  void take(const nanobind::dlpack::dltensor& tensor);
  void expect_at(const Place& place) const;

  const char* name_;
  Place place_;
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  int ndim_ = 0;
  std::array<std::int64_t, kMaxDims> shape_{}, strides_{};
  nanobind::ndarray<> owner_;  ///< Empty for torch's tensors: the caller holds them.
};

/// The stream that a tensor's library works on there, as CUDA's handle. Throws `Error`
/// (kUnsupported) for libraries that do not tell.
void* current_stream(nanobind::handle tensor, const Place& place);

}  // namespace rarefy::python
