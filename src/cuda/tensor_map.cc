#include "cuda/tensor_map.h"

#include "base/check.h"
#include "cuda/driver.h"

namespace rarefy::cuda {

bool can_map(const TensorRows& matrix) {
  constexpr std::int64_t kAlignment = 16;
  return matrix.rows > 0 && matrix.columns > 0 && matrix.address % kAlignment == 0 &&
         matrix.stride * 2 % kAlignment == 0;
}

TensorMap map_rows(const TensorRows& matrix, int box_rows, int box_columns) {
  require(box_columns == 16 || box_columns == 32 || box_columns == 64,
          "a tensor map's box has 16, 32 or 64 columns, not {}", box_columns);
  const std::uint64_t sizes[] = {static_cast<std::uint64_t>(matrix.columns),
                                 static_cast<std::uint64_t>(matrix.rows)};
  const std::uint64_t strides[] = {static_cast<std::uint64_t>(matrix.stride) * 2};
  const std::uint32_t box[] = {static_cast<std::uint32_t>(box_columns),
                               static_cast<std::uint32_t>(box_rows)};
  const std::uint32_t steps[] = {1, 1};
  const int swizzle = box_columns == 64   ? abi::kTensorMapSwizzle128
                      : box_columns == 32 ? abi::kTensorMapSwizzle64
                                          : abi::kTensorMapSwizzle32;
  TensorMap map;
  check(driver().cuTensorMapEncodeTiled(&map, abi::kTensorMapUint16, 2, matrix.address, sizes,
                                        strides, box, steps, abi::kTensorMapInterleaveNone, swizzle,
                                        abi::kTensorMapPromotion256, abi::kTensorMapFillNone),
        "describing {}x{} elements for the tensor copy engine", matrix.rows, matrix.columns);
  return map;
}

}  // namespace rarefy::cuda
