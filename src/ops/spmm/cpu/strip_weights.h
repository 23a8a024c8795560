// Dense tiles and blocks in strips as one thing: rows of blocks, each block some strips high.
#pragma once

#include "ops/spmm/cpu/strip_engine.h"
#include "rarefy/matrix.h"

namespace rarefy::strip {

/// The weights of one call. A strip is 16 rows; `row_strips` of them make a block row.
class Weights {
 public:
  /// `a` is DenseTiles, or Bsr in strips.
  explicit Weights(const Matrix& a);

  [[nodiscard]] std::int64_t strips() const { return strips_; }
  [[nodiscard]] std::int64_t padded_k() const { return padded_k_; }
  /// Ranges of K may be cut at multiples of this.
  [[nodiscard]] std::int64_t width() const { return width_; }
  /// How many strips one unit may hold, at most `wanted` (1, 2 or 4), beginning at strip `s` and
  /// ending by strip `end`.
  [[nodiscard]] std::int32_t strips_together(std::int64_t s, std::int64_t end,
                                             std::int32_t wanted) const;
  /// `count` strips from `s`, columns [k_begin, k_end); sums are left to the caller.
  [[nodiscard]] Unit unit(std::int64_t s, std::int32_t count, std::int64_t k_begin,
                          std::int64_t k_end) const;
  /// First strip of part `part` of `parts` with nearly equal stored bytes.
  [[nodiscard]] std::int64_t cut(std::int64_t part, std::int64_t parts) const;

 private:
  const std::byte* values_;
  const std::int64_t* row_offsets_ = nullptr;  ///< nullptr: dense
  const std::int32_t* columns_ = nullptr;
  std::int64_t strips_, block_rows_ = 0, row_strips_ = 1, width_, padded_k_;
  std::int64_t block_bytes_ = 0, strip_bytes_, column_bytes_;
};

}  // namespace rarefy::strip
