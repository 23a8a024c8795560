// Descriptions of matrices for the tensor copy engine (sm_90 on): passed to kernels by value.
#pragma once

#include <cstdint>

#include "cuda/abi.h"

namespace rarefy::cuda {

/// As the driver lays it out; a kernel's parameter is `const __grid_constant__` of 128 such bytes.
struct alignas(128) TensorMap {
  std::uint64_t words[16] = {};
};

/// Row-major, of 16-bit elements.
struct TensorRows {
  abi::CUdeviceptr address = 0;
  std::int64_t rows = 0, columns = 0, stride = 0;  ///< The stride counts elements.
};

/// Whether the engine takes such a matrix: rows must begin at multiples of 16 bytes.
bool can_map(const TensorRows& matrix);

/// For boxes of `box_rows` rows and `box_columns` columns, 16, 32 or 64 of them, which arrive in
/// shared memory row by row with the swizzle that spans a row. What lies outside the matrix arrives
/// as zeros. Throws `Error` where the driver refuses.
TensorMap map_rows(const TensorRows& matrix, int box_rows, int box_columns);

}  // namespace rarefy::cuda
