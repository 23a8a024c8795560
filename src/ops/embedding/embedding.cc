#include <vector>

#include "ops/check_rows.h"
#include "rarefy/transformer_ops.h"

namespace rarefy {

void embedding(const RowSource& table, std::span<const std::int32_t> ids, MatrixRef y,
               ThreadPool& pool) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const std::int64_t width = table.cols();
  ops::require_f32("embedding", "y", y, tokens, width);
  for (const std::int32_t id : ids) {
    require(id >= 0 && id < table.rows(), "embedding: ids: expected 0…{}, got {}", table.rows() - 1,
            id);
  }
  const auto row_bytes = static_cast<std::size_t>(width) * size_of(table.dtype());
  const auto* dense = static_cast<const std::byte*>(table.dense_data());
  ops::for_rows(tokens, width, pool, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::byte> copy(dense == nullptr ? row_bytes : 0);
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int32_t id = ids[static_cast<std::size_t>(t)];
      if (dense == nullptr) table.read_rows(id, id + 1, copy.data());
      const std::byte* row =
          dense == nullptr ? copy.data() : dense + static_cast<std::size_t>(id) * row_bytes;
      convert_elements(row, table.dtype(), y.row<float>(t), DType::kF32,
                       static_cast<std::size_t>(width));
    }
  });
}

}  // namespace rarefy
