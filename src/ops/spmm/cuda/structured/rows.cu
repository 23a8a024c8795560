// What cuSPARSELt leaves to do around its products, but for the epilogue. Constant: ROW_TYPE.
#include "cuda/number.cuh"

/// Rows from one matrix to another: the library wants no gaps of its own choice and whole tokens of
/// eight.
extern "C" __global__ void copy_rows(const ROW_TYPE* __restrict__ from, i64 from_stride,
                                     ROW_TYPE* __restrict__ to, i64 to_stride, i64 rows, i64 cols) {
  const i64 count = rows * cols;
  for (i64 i = blockIdx.x * static_cast<i64>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<i64>(gridDim.x) * blockDim.x) {
    const i64 row = i / cols;
    const i64 col = i % cols;
    to[row * to_stride + col] = from[row * from_stride + col];
  }
}
