// What cuSPARSELt leaves to do around its products. Constants: ROW_TYPE, and those of epilogue.cuh.
#include "cuda/number.cuh"
#include "ops/spmm/cuda/epilogue.cuh"

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

/// c = act(sums + bias) + residual over `rows` tokens of `cols` features; sums lie without gaps.
extern "C" __global__ void finish_rows(const ROW_TYPE* __restrict__ sums, ROW_TYPE* c, i64 c_stride,
                                       const float* __restrict__ bias, const ROW_TYPE* residual,
                                       i64 residual_stride, i64 rows, i64 cols) {
  const i64 count = rows * cols;
  for (i64 i = blockIdx.x * static_cast<i64>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<i64>(gridDim.x) * blockDim.x) {
    const i64 row = i / cols;
    const i64 col = i % cols;
    store_result(to_float(sums[i]), c, row * c_stride + col, bias, col, residual,
                 row * residual_stride + col);
  }
}
