// What libraries leave to do: c = act(sums + bias) + residual over a whole matrix of sums, f32
// (cuBLASLt's) or as the library rounds them (cuSPARSELt's).
// Constants: SUM_TYPE, C_TYPE, TOKEN_MAJOR, and those of epilogue.cuh.
#include "cuda/number.cuh"
#include "ops/spmm/cuda/epilogue.cuh"

/// `rows`×`cols` in the layout's own order: features are the columns of token-major matrices.
extern "C" __global__ void dense_epilogue(const SUM_TYPE* __restrict__ sums, C_TYPE* c,
                                          i64 c_stride, const float* __restrict__ bias,
                                          const C_TYPE* residual, i64 residual_stride, i64 rows,
                                          i64 cols) {
  const i64 count = rows * cols;
  for (i64 i = blockIdx.x * static_cast<i64>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<i64>(gridDim.x) * blockDim.x) {
    const i64 row = i / cols;
    const i64 col = i % cols;
    store_result(to_float(sums[i]), c, row * c_stride + col, bias, TOKEN_MAJOR ? col : row,
                 residual, row * residual_stride + col);
  }
}
