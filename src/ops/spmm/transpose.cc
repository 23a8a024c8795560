#include "ops/spmm/transpose.h"

#include <algorithm>

namespace rarefy {
namespace {

/// Blocks of 32×32 keep both sides within L1 lines that are used whole.
constexpr std::int64_t kBlock = 32;

template <class Bits>
void transpose_bits(const ConstMatrixRef& from, const MatrixRef& to, ThreadPool& pool) {
  const std::int64_t blocks = (to.rows + kBlock - 1) / kBlock;
  pool.parallel_for(blocks, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t last = std::min(to.rows, end * kBlock);
    for (std::int64_t c0 = begin * kBlock; c0 < last; c0 += kBlock) {
      const std::int64_t c1 = std::min(last, c0 + kBlock);
      for (std::int64_t r0 = 0; r0 < to.cols; r0 += kBlock) {
        const std::int64_t r1 = std::min(to.cols, r0 + kBlock);
        for (std::int64_t c = c0; c < c1; ++c) {
          Bits* out = to.row<Bits>(c);
          for (std::int64_t r = r0; r < r1; ++r) out[r] = from.row<Bits>(r)[c];
        }
      }
    }
  });
}

}  // namespace

void transpose(const ConstMatrixRef& from, const MatrixRef& to, ThreadPool& pool) {
  if (size_of(from.dtype) == 4) {
    transpose_bits<std::uint32_t>(from, to, pool);
  } else {
    transpose_bits<std::uint16_t>(from, to, pool);
  }
}

}  // namespace rarefy
