// Memory: owned, aligned buffers, and borrowed row-major matrices of activations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "rarefy/dtype.h"

namespace rarefy {

using Shape = std::vector<std::int64_t>;

std::string to_string(const Shape& shape);  ///< "[4096, 14336]"

/// Owned bytes, 64-byte aligned (2 MiB-aligned and advised for huge pages from 4 MiB on); movable,
/// not copyable; not initialised.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);  ///< Throws `Error` (kOutOfMemory).
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  static Buffer zeros(std::size_t bytes);

  [[nodiscard]] std::byte* data() { return data_; }
  [[nodiscard]] const std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }
  template <class T>
  std::span<T> span() {
    return {as<T>(), size_ / sizeof(T)};
  }
  template <class T>
  std::span<const T> span() const {
    return {as<T>(), size_ / sizeof(T)};
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A borrowed row-major matrix: element (r, c) lies at `data + (r * row_stride + c) *
/// size_of(dtype)`. Strides count elements.
struct ConstMatrixRef {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t row_stride = 0;

  template <class T>
  const T* row(std::int64_t r) const {
    return static_cast<const T*>(data) + r * row_stride;
  }
};

struct MatrixRef {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t row_stride = 0;

  template <class T>
  T* row(std::int64_t r) const {
    return static_cast<T*>(data) + r * row_stride;
  }
  operator ConstMatrixRef() const { return {data, dtype, rows, cols, row_stride}; }
};

/// Contiguous views of f32 memory, the usual case in the runtime.
inline MatrixRef matrix_ref(float* data, std::int64_t rows, std::int64_t cols) {
  return {data, DType::kF32, rows, cols, cols};
}
inline ConstMatrixRef matrix_ref(const float* data, std::int64_t rows, std::int64_t cols) {
  return {data, DType::kF32, rows, cols, cols};
}

/// The canonical form of a weight, whatever holds it (a file, a packed matrix, a generator): M×K
/// values on demand, a panel of rows at a time, so that no conversion ever needs the whole dense
/// matrix. Implementations are immutable and may be read by many threads.
class RowSource {
 public:
  virtual ~RowSource() = default;
  [[nodiscard]] virtual std::int64_t rows() const = 0;  ///< M
  [[nodiscard]] virtual std::int64_t cols() const = 0;  ///< K
  [[nodiscard]] virtual DType dtype() const = 0;        ///< f32, f16 or bf16

  /// Writes rows [begin, end) densely to `out`, (end-begin)×K elements of `dtype()`, row-major.
  /// Absent values are +0.
  virtual void read_rows(std::int64_t begin, std::int64_t end, void* out) const = 0;

  /// The rows in place when they already lie dense and row-major in memory (K elements apart), else
  /// nullptr.
  [[nodiscard]] virtual const void* dense_data() const { return nullptr; }
};

/// A dense matrix that someone else owns, as a source. `ref.row_stride` may exceed `ref.cols`.
class DenseSource final : public RowSource {
 public:
  explicit DenseSource(
      ConstMatrixRef ref);  ///< Throws `Error` unless ref's dtype is f32, f16 or bf16.
  [[nodiscard]] std::int64_t rows() const override { return ref_.rows; }
  [[nodiscard]] std::int64_t cols() const override { return ref_.cols; }
  [[nodiscard]] DType dtype() const override { return ref_.dtype; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] const void* dense_data() const override;

 private:
  ConstMatrixRef ref_;
};

}  // namespace rarefy
