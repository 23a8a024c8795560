// A matrix to sparse-bitmask: panel by panel, rows encoded by all threads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy::io {

struct EncodedBitmask {
  std::int64_t values = 0;                ///< Stored; ±0 are not.
  std::string bitmask;                    ///< rows × ceil(cols / 8), little bit order.
  std::vector<std::int64_t> row_offsets;  ///< One a row; the total is not among them.
};

/// Encodes `source`, handing the stored values to `write(data, bytes)` in order.
EncodedBitmask encode_bitmask(const RowSource& source, ThreadPool& pool,
                              const std::function<void(const void*, std::size_t)>& write);

}  // namespace rarefy::io
