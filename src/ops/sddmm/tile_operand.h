// An operand of SDDMM packed in tiles for AMX, a range of t at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/sddmm/cpu/sddmm_amx.h"
#include "ops/spmm/scratch.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy {

/// Most t that are packed at once: what memory the packed operands may take beside the operands.
inline constexpr std::int64_t kStepsAtOnce = 2048;

class TileOperand {
 public:
  /// Columns past those of x, up to `padded`, are zeros.
  TileOperand(const ConstMatrixRef& x, std::int64_t padded, sddmm_cpu::TileOrder order)
      : x_(x),
        groups_(groups(padded)),
        order_(order),
        storage_(static_cast<std::size_t>(groups_ * 2 * sddmm_cpu::kTileBytes *
                                          tiles_of(std::min(kStepsAtOnce, x.rows)))) {}

  /// Packs rows [begin, end) of the operand, at most kStepsAtOnce, by all threads.
  void pack(std::int64_t begin, std::int64_t end, ThreadPool& pool) {
    step_tiles_ = tiles_of(end - begin);
    pool.parallel_for(groups_, [&](std::int64_t first, std::int64_t last) {
      const std::int64_t column = first * sddmm_cpu::kGroupColumns;
      sddmm_cpu::pack_tiles_amx({.from = x_.row<std::uint16_t>(begin) + column,
                                 .row_stride = x_.row_stride,
                                 .steps = end - begin,
                                 .columns = x_.cols - column,
                                 .groups = last - first,
                                 .order = order_,
                                 .to = storage_.as<std::byte>() + first * group_bytes()});
    });
  }

  [[nodiscard]] std::int64_t step_tiles() const { return step_tiles_; }
  [[nodiscard]] std::int64_t group_bytes() const { return 2 * step_tiles_ * sddmm_cpu::kTileBytes; }
  /// Half h (16 columns) of the operand, counted from column 0.
  [[nodiscard]] const std::byte* half(std::int64_t h) {
    return storage_.as<std::byte>() + h / 2 * group_bytes() + h % 2 * sddmm_cpu::kTileBytes;
  }

  static std::int64_t groups(std::int64_t columns) {
    return (columns + sddmm_cpu::kGroupColumns - 1) / sddmm_cpu::kGroupColumns;
  }
  static std::int64_t tiles_of(std::int64_t steps) {
    return (steps + sddmm_cpu::kTileSteps - 1) / sddmm_cpu::kTileSteps;
  }

 private:
  ConstMatrixRef x_;
  std::int64_t groups_;
  sddmm_cpu::TileOrder order_;
  Scratch storage_;
  std::int64_t step_tiles_ = 0;
};

/// Groups of columns whose tiles stay in L2 while the other operand goes past.
inline std::int64_t groups_in_l2(const TileOperand& x) {
  constexpr std::int64_t kBytes = 768 << 10;
  return std::max<std::int64_t>(1, kBytes / x.group_bytes());
}

}  // namespace rarefy
