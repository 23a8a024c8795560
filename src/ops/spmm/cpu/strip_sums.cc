#include "ops/spmm/cpu/strip_sums.h"

#include <algorithm>
#include <cstring>

namespace rarefy::strip {

void store_sums(const Epilogue& epilogue, const float* sums, std::int64_t s, std::int64_t strips,
                const Activations& x, std::int64_t n, std::int64_t m) {
  const std::int64_t first_row = s * kOutputs;
  const std::int64_t rows = std::min(m - first_row, strips * kOutputs);
  const std::int64_t strip_floats = std::int64_t{x.token_tiles} * kSumTileFloats;
  for (std::int64_t t = 0; t < n; ++t) {
    const float* from = sums + t / x.tokens * kSumTileFloats + t % x.tokens * kOutputs;
    float gathered[kStripsAStore * kOutputs];
    const bool plain = epilogue.is_plain_f32();
    float* to = plain ? epilogue.c().row<float>(t) + first_row : gathered;
    std::int64_t r = 0;
    for (; r + kOutputs <= rows; r += kOutputs, from += strip_floats)
      std::memcpy(to + r, from, kOutputs * sizeof(float));
    if (r < rows) std::memcpy(to + r, from, static_cast<std::size_t>(rows - r) * sizeof(float));
    if (!plain) epilogue.store(t, first_row, gathered, rows);
  }
}

}  // namespace rarefy::strip
