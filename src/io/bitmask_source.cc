#include "io/bitmask_source.h"

#include <cstring>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "io/bitmask_kernels.h"
#include "io/safetensors_header.h"

namespace rarefy::io {
namespace {

std::string what(const StoredArray& array) {
  return fmt::format("{}: tensor '{}'", array.file->path().string(), array.info->name);
}

bool is_index_dtype(DType dtype) {
  return dtype == DType::kI64 || dtype == DType::kI32;
}

/// Element `i` of an I64 or I32 array, however it is aligned.
std::int64_t index_at(const StoredArray& array, std::int64_t i) {
  if (array.info->dtype == DType::kI32) {
    std::int32_t value;
    std::memcpy(&value, array.data() + i * 4, sizeof value);
    return value;
  }
  std::int64_t value;
  std::memcpy(&value, array.data() + i * 8, sizeof value);
  return value;
}

void expect_shape(const StoredArray& array, const Shape& expected) {
  if (array.info->shape != expected) {
    fail(ErrorKind::kCorrupt, "{}: expected shape {}, found {}", what(array), to_string(expected),
         to_string(array.info->shape));
  }
}

/// [rows, cols]; a vector is one row.
std::pair<std::int64_t, std::int64_t> rows_and_cols(const Shape& shape) {
  return shape.size() == 1 ? std::pair{std::int64_t{1}, shape[0]} : std::pair{shape[0], shape[1]};
}

class BitmaskSource final : public RowSource {
 public:
  explicit BitmaskSource(const BitmaskArrays& arrays) : arrays_(arrays) {
    std::tie(rows_, cols_) = rows_and_cols(check_bitmask_arrays(arrays));
    if (!is_compute_dtype(dtype())) {
      fail(ErrorKind::kUnsupported, "{}: expected values of F32, F16 or BF16, found {}",
           what(arrays.compressed), safetensors_name(dtype()));
    }
    mask_bytes_ = static_cast<std::size_t>((cols_ + 7) / 8);
    values_ = static_cast<std::size_t>(arrays.compressed.info->elements());
    arrays.storage() == Storage::kSparseBitmask ? check_row_offsets() : check_groups_of_four();
  }

  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return arrays_.compressed.info->dtype; }

  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    const BitmaskKernels& kernels = bitmask_kernels();
    const std::size_t element = size_of(dtype());
    const auto expand = element == 2 ? kernels.expand16 : kernels.expand32;
    auto* to = static_cast<std::byte*>(out);
    for (std::int64_t r = begin; r < end; ++r) {
      const std::size_t first = row_begin(r);
      expand(arrays_.compressed.data() + first * element, values_ - first, mask(r),
             static_cast<std::size_t>(cols_), to);
      to += static_cast<std::size_t>(cols_) * element;
    }
  }

 private:
  [[nodiscard]] const std::uint8_t* mask(std::int64_t row) const {
    return reinterpret_cast<const std::uint8_t*>(arrays_.bitmask.data()) +
           static_cast<std::size_t>(row) * mask_bytes_;
  }

  [[nodiscard]] std::size_t row_begin(std::int64_t row) const {
    return static_cast<std::size_t>(arrays_.storage() == Storage::kSparseBitmask
                                        ? index_at(arrays_.row_offsets, row)
                                        : row * (cols_ / 2));
  }

  void check_row_offsets() const {
    const auto count = bitmask_kernels().count;
    std::uint64_t total = 0;
    for (std::int64_t r = 0; r < rows_; ++r) {
      if (const std::int64_t offset = index_at(arrays_.row_offsets, r);
          offset < 0 || static_cast<std::uint64_t>(offset) != total) {
        fail(ErrorKind::kCorrupt,
             "{}: row {}: expected offset {} as the masks above count, found {}",
             what(arrays_.row_offsets), r, total, offset);
      }
      check_padding(r);
      total += count(mask(r), mask_bytes_);
    }
    if (total != values_) {
      fail(ErrorKind::kCorrupt, "{}: expected {} values as '{}' has set bits, found {}",
           what(arrays_.compressed), total, arrays_.bitmask.info->name, values_);
    }
  }

  void check_groups_of_four() const {
    for (std::int64_t r = 0; r < rows_; ++r) {
      check_padding(r);
      const std::uint8_t* row = mask(r);
      for (std::int64_t c = 0; c < cols_; c += 4) {
        const unsigned group = (row[c / 8] >> (c % 8)) & 0xFU;
        if (__builtin_popcount(group) != 2) {
          fail(ErrorKind::kCorrupt, "{}: row {}, columns {} to {}: expected 2 of 4 bits, found {}",
               what(arrays_.bitmask), r, c, c + 3, __builtin_popcount(group));
        }
      }
    }
  }

  void check_padding(std::int64_t row) const {
    const unsigned used = static_cast<unsigned>(cols_ % 8);
    if (used != 0 && (mask(row)[mask_bytes_ - 1] >> used) != 0) {
      fail(ErrorKind::kCorrupt, "{}: row {}: expected no bit beyond column {}, found one",
           what(arrays_.bitmask), row, cols_ - 1);
    }
  }

  BitmaskArrays arrays_;
  std::int64_t rows_ = 0, cols_ = 0;
  std::size_t mask_bytes_ = 0, values_ = 0;
};

}  // namespace

std::size_t BitmaskArrays::bytes() const {
  return compressed.info->bytes() + bitmask.info->bytes() + shape.info->bytes() +
         (row_offsets.info != nullptr ? row_offsets.info->bytes() : 0);
}

Shape check_bitmask_arrays(const BitmaskArrays& arrays) {
  const TensorInfo& shape_info = *arrays.shape.info;
  const std::int64_t rank = shape_info.elements();
  if (!is_index_dtype(shape_info.dtype) || rank < 1 || rank > 2) {
    fail(ErrorKind::kCorrupt, "{}: expected 1 or 2 elements of I64, found {} {}",
         what(arrays.shape), safetensors_name(shape_info.dtype), to_string(shape_info.shape));
  }
  Shape shape;
  for (std::int64_t i = 0; i < rank; ++i) shape.push_back(index_at(arrays.shape, i));
  for (const std::int64_t dim : shape) {
    if (dim < 1) {
      fail(ErrorKind::kCorrupt, "{}: expected positive dimensions, found {}", what(arrays.shape),
           to_string(shape));
    }
  }
  checked_bytes(DType::kF64, shape, what(arrays.shape));  // No product overflows from here on.
  const auto [rows, cols] = rows_and_cols(shape);
  const std::int64_t mask_bytes = cols / 8 + (cols % 8 != 0 ? 1 : 0);

  if (arrays.bitmask.info->dtype != DType::kU8) {
    fail(ErrorKind::kCorrupt, "{}: expected U8, found {}", what(arrays.bitmask),
         safetensors_name(arrays.bitmask.info->dtype));
  }
  expect_shape(arrays.bitmask, rank == 1 ? Shape{mask_bytes} : Shape{rows, mask_bytes});

  if (arrays.storage() == Storage::kSparse24Bitmask) {
    if (rank != 2 || cols % 4 != 0) {
      fail(ErrorKind::kCorrupt, "{}: expected a matrix with columns in fours, found {}",
           what(arrays.shape), to_string(shape));
    }
    expect_shape(arrays.compressed, {rows, cols / 2});
    return shape;
  }
  if (arrays.compressed.info->shape.size() != 1) {
    fail(ErrorKind::kCorrupt, "{}: expected one dimension, found shape {}", what(arrays.compressed),
         to_string(arrays.compressed.info->shape));
  }
  if (!is_index_dtype(arrays.row_offsets.info->dtype) ||
      arrays.row_offsets.info->elements() != rows || arrays.row_offsets.info->shape.size() > 1) {
    fail(ErrorKind::kCorrupt, "{}: expected {} offsets of I64, found {} {}",
         what(arrays.row_offsets), rows, safetensors_name(arrays.row_offsets.info->dtype),
         to_string(arrays.row_offsets.info->shape));
  }
  return shape;
}

std::shared_ptr<const RowSource> make_bitmask_source(const BitmaskArrays& arrays) {
  return std::make_shared<BitmaskSource>(arrays);
}

}  // namespace rarefy::io
