#include "ops/spmm/cpu/row_blocks.h"

#include <algorithm>

#include "ops/spmm/scratch.h"

namespace rarefy {

std::int64_t cut_by_bytes(const std::uint64_t* offsets, std::int64_t units, int part, int parts) {
  if (part <= 0) return 0;
  if (part >= parts) return units;
  const double total = static_cast<double>(offsets[units] - offsets[0]);
  const auto target = offsets[0] + static_cast<std::uint64_t>(total * part / parts);
  return std::lower_bound(offsets, offsets + units, target) - offsets;
}

void store_row_blocks(const Epilogue& epilogue, const float* sums, std::int64_t tokens,
                      std::int64_t height, std::int64_t rows, std::int64_t first,
                      std::int64_t last) {
  const std::int64_t begin = first * height;
  const std::int64_t count = std::min(rows, last * height) - begin;
  if (tokens == 1) return epilogue.store(0, begin, sums, count);
  // One call a token: storing 16 results at a time costs more than gathering them first.
  Scratch gathered(static_cast<std::size_t>((last - first) * height) * sizeof(float));
  auto* row = gathered.as<float>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t b = 0; b < last - first; ++b)
      std::copy_n(sums + (b * tokens + t) * height, height, row + b * height);
    epilogue.store(t, begin, row, count);
  }
}

}  // namespace rarefy
