// Checks of block patterns that the operators make on every call, and a pattern seen from the side
// of its outputs.
#pragma once

#include <cstdint>

#include "rarefy/block_sparse.h"

namespace rarefy {

/// Shape, offsets and indices by rows / by columns; errors begin with `op`. A few microseconds for
/// ten thousand blocks.
void check_rows(const char* op, const BlockPattern& pattern);
void check_columns(const char* op, const BlockPattern& pattern);

/// A product sees the weight from the side of its outputs: groups of `out` outputs (rows of blocks,
/// or columns where the weight is transposed), each with a list of blocks of `in` inputs.
struct BlockGroups {
  const std::int32_t* offsets;
  const std::int32_t* inputs;  ///< Of each block: which group of inputs.
  const std::int32_t* order;   ///< Of each block: its place among the values; nullptr: its own.
  std::int64_t groups;
  std::int64_t outputs, inputs_total;
  std::int64_t out, in;
  std::int64_t out_stride,
      in_stride;  ///< Elements of a block between neighbouring outputs, inputs.

  [[nodiscard]] std::int64_t place(std::int64_t block) const {
    return order != nullptr ? order[block] : block;
  }
  [[nodiscard]] std::int64_t block_elements() const { return out * in; }
};

inline BlockGroups groups_by_rows(const BlockPattern& p) {
  return {.offsets = p.row_offsets.data(),
          .inputs = p.col_indices.data(),
          .order = nullptr,
          .groups = p.rows / p.block_rows,
          .outputs = p.rows,
          .inputs_total = p.cols,
          .out = p.block_rows,
          .in = p.block_cols,
          .out_stride = p.block_cols,
          .in_stride = 1};
}
inline BlockGroups groups_by_columns(const BlockPattern& p) {
  return {.offsets = p.col_offsets.data(),
          .inputs = p.row_indices.data(),
          .order = p.order.data(),
          .groups = p.cols / p.block_cols,
          .outputs = p.cols,
          .inputs_total = p.rows,
          .out = p.block_cols,
          .in = p.block_rows,
          .out_stride = 1,
          .in_stride = p.block_cols};
}

}  // namespace rarefy
