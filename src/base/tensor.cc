#include "rarefy/tensor.h"

#include <fmt/ranges.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace rarefy {
namespace {
constexpr std::size_t kLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kHugeFrom = 2 * kHugePage;
}  // namespace

std::string to_string(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Buffer::Buffer(std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  const std::size_t alignment = bytes >= kHugeFrom ? kHugePage : kLine;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  data_ = static_cast<std::byte*>(std::aligned_alloc(alignment, rounded));
  if (data_ == nullptr)
    fail(ErrorKind::kOutOfMemory, "out of memory: could not allocate {} bytes", bytes);
  if (alignment == kHugePage)
    madvise(data_, rounded, MADV_HUGEPAGE);  // A hint: without huge pages all works, slower.
}

Buffer::~Buffer() {
  std::free(data_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Buffer Buffer::zeros(std::size_t bytes) {
  Buffer buffer(bytes);
  if (bytes != 0) std::memset(buffer.data(), 0, bytes);
  return buffer;
}

DenseSource::DenseSource(ConstMatrixRef ref) : ref_(ref) {
  require(is_compute_dtype(ref.dtype), "dense source: expected f32, f16 or bf16, got {}",
          to_string(ref.dtype));
  require(ref.rows >= 0 && ref.cols >= 0 && ref.row_stride >= ref.cols,
          "dense source: expected row_stride >= cols >= 0, got {}x{} with stride {}", ref.rows,
          ref.cols, ref.row_stride);
}

void DenseSource::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  const std::size_t element = size_of(ref_.dtype);
  const std::size_t row_bytes = static_cast<std::size_t>(ref_.cols) * element;
  const auto* from = static_cast<const std::byte*>(ref_.data);
  auto* to = static_cast<std::byte*>(out);
  for (std::int64_t r = begin; r < end; ++r, to += row_bytes) {
    if (row_bytes != 0)
      std::memcpy(to, from + static_cast<std::size_t>(r * ref_.row_stride) * element, row_bytes);
  }
}

const void* DenseSource::dense_data() const {
  return ref_.row_stride == ref_.cols ? ref_.data : nullptr;
}

}  // namespace rarefy
