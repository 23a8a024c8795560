// Checks that the row-wise operators share.
#pragma once

#include <cstdint>

#include "base/check.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy::ops {

/// `ref` must be f32 of rows×cols with memory behind it.
inline void require_f32(const char* op, const char* argument, ConstMatrixRef ref, std::int64_t rows,
                        std::int64_t cols) {
  require(ref.dtype == DType::kF32, "{}: {}: expected f32, got {}", op, argument,
          to_string(ref.dtype));
  require(ref.rows == rows && ref.cols == cols, "{}: {}: expected {}x{}, got {}x{}", op, argument,
          rows, cols, ref.rows, ref.cols);
  require(ref.row_stride >= ref.cols && (ref.data != nullptr || rows == 0 || cols == 0),
          "{}: {}: expected memory with row_stride >= {}, got stride {}{}", op, argument, cols,
          ref.row_stride, ref.data == nullptr ? " and no data" : "");
}

/// Elements below which waking the other threads (about 2 µs) costs more than it saves.
inline constexpr std::int64_t kParallelElements = 32768;

/// Calls body(begin, end) over rows, on one thread where the work is small. Rows never share sums,
/// so the result does not depend on the cut.
template <class Body>
void for_rows(std::int64_t rows, std::int64_t cols, ThreadPool& pool, const Body& body) {
  if (rows <= 1 || rows * cols < kParallelElements) {
    if (rows > 0) body(std::int64_t{0}, rows);
  } else {
    pool.parallel_for(rows, body);
  }
}

}  // namespace rarefy::ops
