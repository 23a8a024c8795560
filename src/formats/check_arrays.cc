#include "formats/check_arrays.h"

namespace rarefy {

void check_size(const Matrix& a, const char* array, const Buffer& buffer, std::size_t bytes) {
  if (buffer.size() != bytes) {
    fail(ErrorKind::kCorrupt, "{} {}: expected {} bytes, found {}", a.spec().name(), array, bytes,
         buffer.size());
  }
}

std::int64_t check_offsets(const Matrix& a, const char* array, const Buffer& offsets,
                           std::int64_t count) {
  check_size(a, array, offsets, static_cast<std::size_t>(count + 1) * sizeof(std::int64_t));
  const auto* at = offsets.as<std::int64_t>();
  if (at[0] != 0)
    fail(ErrorKind::kCorrupt, "{} {}[0]: expected 0, found {}", a.spec().name(), array, at[0]);
  for (std::int64_t i = 0; i < count; ++i) {
    if (at[i + 1] < at[i]) {
      fail(ErrorKind::kCorrupt, "{} {}[{}]: expected at least {}, found {}", a.spec().name(), array,
           i + 1, at[i], at[i + 1]);
    }
  }
  return at[count];
}

void check_nnz(const Matrix& a, const void* values, std::int64_t count) {
  const std::int64_t found = count_nonzeros(values, a.dtype(), count);
  if (found != a.nnz()) {
    fail(ErrorKind::kCorrupt, "{} values: expected {} nonzeros, found {}", a.spec().name(), a.nnz(),
         found);
  }
}

}  // namespace rarefy
