// The blocks of a weight that are worth storing densely, as block-sparse kernels read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rarefy/block_sparse.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

struct CutBlocks {
  std::int64_t rows = 0, cols = 0;
  int block_rows = 1, block_cols = 1;
  std::vector<std::int32_t> row_offsets, col_indices;  ///< As those of a BlockPattern.
  std::vector<std::byte> values;  ///< blocks × block_rows × block_cols, each block row-major.

  [[nodiscard]] std::int64_t blocks() const { return std::ssize(col_indices); }
  /// A view of the arrays above, by rows alone.
  [[nodiscard]] BlockPattern pattern() const;
};

/// Takes the blocks with at least `fewest` nonzeros, zeros and all. The source is f16 or bf16, of
/// multiples of the block's rows and columns; anything else is an `Error` (kInvalidArgument).
CutBlocks cut_blocks(const RowSource& source, int block_rows, int block_cols, int fewest = 1,
                     ThreadPool& pool = default_pool());

/// What `cut_blocks` leaves: the source with zeros in the blocks that were taken. Views both.
class RestOfBlocks final : public RowSource {
 public:
  RestOfBlocks(const RowSource& source, const CutBlocks& taken) : source_(source), taken_(taken) {}
  [[nodiscard]] std::int64_t rows() const override { return source_.rows(); }
  [[nodiscard]] std::int64_t cols() const override { return source_.cols(); }
  [[nodiscard]] DType dtype() const override { return source_.dtype(); }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;

 private:
  const RowSource& source_;
  const CutBlocks& taken_;
};

}  // namespace rarefy::gpu
