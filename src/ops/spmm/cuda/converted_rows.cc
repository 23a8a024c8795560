#include "ops/spmm/cuda/converted_rows.h"

#include <cstddef>
#include <vector>

namespace rarefy::gpu {

void ConvertedRows::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  if (from_->dtype() == dtype_) return from_->read_rows(begin, end, out);
  const auto row = static_cast<std::size_t>(cols());
  std::vector<std::byte> values(row * size_of(from_->dtype()));
  for (std::int64_t r = begin; r < end; ++r) {
    from_->read_rows(r, r + 1, values.data());
    convert_elements(
        values.data(), from_->dtype(),
        static_cast<std::byte*>(out) + static_cast<std::size_t>(r - begin) * row * size_of(dtype_),
        dtype_, row);
  }
}

}  // namespace rarefy::gpu
