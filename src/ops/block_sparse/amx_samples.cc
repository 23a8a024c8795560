// Blocks of Pᵀ·Q from bf16 operands on AMX.
//
// Both operands are packed in tiles once for a range of steps (ops/sddmm/tile_operand.h). Columns
// of Q that stay in L2 meet all rows of P; sums of several ranges wait in tiles.
#include <algorithm>
#include <vector>

#include "ops/block_sparse/cpu/amx_inner.h"
#include "ops/block_sparse/cut.h"
#include "ops/block_sparse/products.h"
#include "ops/sddmm/tile_operand.h"
#include "ops/spmm/cpu/strip_engine.h"

namespace rarefy {
namespace {

constexpr std::int64_t kHalf = sddmm_cpu::kHalfColumns;
/// Steps that are packed at once. Fewer leave more columns of Q in L2 for each row of P, more add
/// sums less often: 512, 1024 and 2048 take 46, 31 and 36 ms for 2048 steps of 11008×4096 (32×32).
constexpr std::int64_t kSteps = 1024;
static_assert(kSteps <= kStepsAtOnce);

class SampleWorker {
 public:
  SampleWorker(const BlockPattern& pattern, TileOperand& p, TileOperand& q, float* waiting,
               const BlockValues& out)
      : pattern_(pattern), p_(p), q_(q), waiting_(waiting), out_(out) {}

  /// Blocks of rows [first, last) of blocks in columns [first_column, last_column) of blocks.
  void run(std::int64_t first, std::int64_t last, std::int64_t first_column,
           std::int64_t last_column, bool add, bool done) {
    strip::amx_begin(16);
    for (std::int64_t r = first; r < last; ++r) {
      const std::int32_t* columns = pattern_.col_indices.data();
      const std::int32_t* begin = columns + pattern_.row_offsets[static_cast<std::size_t>(r)];
      const std::int32_t* end = columns + pattern_.row_offsets[static_cast<std::size_t>(r) + 1];
      for (const auto* c = std::lower_bound(begin, end, first_column); c < end && *c < last_column;
           ++c)
        sample(r, *c, c - columns, add, done);
    }
    strip::amx_end();
  }

 private:
  void sample(std::int64_t row, std::int64_t column, std::int64_t block, bool add, bool done) {
    const std::int64_t first_row = row * pattern_.block_rows / kHalf;
    const std::int64_t first_column = column * pattern_.block_cols / kHalf;
    const std::int64_t rows = pattern_.block_rows / kHalf;
    const std::int64_t columns = pattern_.block_cols / kHalf;
    const std::int64_t elements = std::int64_t{pattern_.block_rows} * pattern_.block_cols;
    alignas(64) float local[4 * block_cpu::kSumFloats];
    float* sums = waiting_ != nullptr ? waiting_ + block * elements : local;
    for (std::int64_t i = 0; i < rows;) {
      const int row_halves = halves(first_row + i, rows - i);
      for (std::int64_t j = 0; j < columns;) {
        const int column_halves = halves(first_column + j, columns - j);
        sddmm_cpu::multiply_tiles_amx({.left = p_.half(first_row + i),
                                       .right = q_.half(first_column + j),
                                       .left_halves = row_halves,
                                       .right_halves = column_halves,
                                       .step_tiles = p_.step_tiles(),
                                       .sums = sums,
                                       .add = add});
        if (done)
          store(sums, row_halves, column_halves,
                block * elements + kHalf * (i * pattern_.block_cols + j));
        if (waiting_ != nullptr) sums += row_halves * column_halves * block_cpu::kSumFloats;
        j += column_halves;
      }
      i += row_halves;
    }
  }

  /// Two halves lie side by side where the first is even.
  static int halves(std::int64_t first, std::int64_t left) {
    return first % 2 == 0 && left >= 2 ? 2 : 1;
  }

  void store(const float* sums, int row_halves, int column_halves, std::int64_t at) {
    const block_cpu::SampleRows job{.sums = sums,
                                    .row_halves = row_halves,
                                    .column_halves = column_halves,
                                    .to = static_cast<std::byte*>(out_.data) +
                                          static_cast<std::size_t>(at) * size_of(out_.dtype),
                                    .stride = pattern_.block_cols};
    if (out_.dtype == DType::kF32) return block_cpu::store_sample_f32_amx(job);
    out_.dtype == DType::kBF16 ? block_cpu::store_sample_bf16_amx(job)
                               : block_cpu::store_sample_f16_amx(job);
  }

  const BlockPattern& pattern_;
  TileOperand &p_, &q_;
  float* waiting_;
  BlockValues out_;
};

/// Blocks narrower than a tile: regions of 32×32 sums that hold any are computed whole.
class RegionWorker {
 public:
  static constexpr std::int64_t kRegion = 32;

  RegionWorker(const BlockPattern& pattern, TileOperand& p, TileOperand& q, float* waiting,
               const BlockValues& out)
      : pattern_(pattern), p_(p), q_(q), waiting_(waiting), out_(out) {}

  /// Regions in [first_column, last_column) of one row of regions.
  void run(std::int64_t row, std::int64_t first_column, std::int64_t last_column, bool add,
           bool done) {
    const std::int64_t members = kRegion / pattern_.block_rows;
    const std::int64_t across = kRegion / pattern_.block_cols;
    const std::int64_t rows = pattern_.rows / pattern_.block_rows;
    const auto offset = [&](std::int64_t r) {
      return pattern_.row_offsets[static_cast<std::size_t>(std::min(r, rows))];
    };
    const std::int32_t* columns = pattern_.col_indices.data();
    std::int64_t next[kMostMembers];
    std::int64_t end[kMostMembers];
    for (std::int64_t m = 0; m < members; ++m) {
      const std::int64_t r = row * members + m;
      const auto place = [&](std::int64_t region) {
        return std::lower_bound(columns + offset(r), columns + offset(r + 1), region * across) -
               columns;
      };
      next[m] = place(first_column);
      end[m] = place(last_column);
    }
    for (;;) {
      std::int64_t column = last_column;
      for (std::int64_t m = 0; m < members; ++m)
        if (next[m] < end[m]) column = std::min(column, columns[next[m]] / across);
      if (column == last_column) return;
      alignas(64) float sums[4 * block_cpu::kSumFloats];
      sddmm_cpu::multiply_tiles_amx({.left = p_.half(2 * row),
                                     .right = q_.half(2 * column),
                                     .left_halves = 2,
                                     .right_halves = 2,
                                     .step_tiles = p_.step_tiles(),
                                     .sums = sums,
                                     .add = false});
      for (std::int64_t m = 0; m < members; ++m) {
        for (; next[m] < end[m] && columns[next[m]] / across == column; ++next[m])
          take(sums, m * pattern_.block_rows, columns[next[m]] % across * pattern_.block_cols,
               next[m], add, done);
      }
    }
  }

 private:
  static constexpr std::int64_t kMostMembers = 4;

  /// The block at (row, column) of a region.
  void take(const float* sums, std::int64_t row, std::int64_t column, std::int64_t block, bool add,
            bool done) {
    const std::int64_t elements = std::int64_t{pattern_.block_rows} * pattern_.block_cols;
    float values[kRegion * kRegion];
    float* to = values;
    for (std::int64_t r = row; r < row + pattern_.block_rows; ++r) {
      for (std::int64_t c = column; c < column + pattern_.block_cols; c += 8, to += 8)
        std::copy_n(sums + (c / kHalf * 2 + r / kHalf) * block_cpu::kSumFloats + r % kHalf * kHalf +
                        c % kHalf,
                    8, to);
    }
    float* waiting = waiting_ != nullptr ? waiting_ + block * elements : nullptr;
    if (add)
      for (std::int64_t i = 0; i < elements; ++i) values[i] += waiting[i];
    if (!done) {
      std::copy_n(values, elements, waiting);
      return;
    }
    convert_elements(values, DType::kF32,
                     static_cast<std::byte*>(out_.data) +
                         static_cast<std::size_t>(block * elements) * size_of(out_.dtype),
                     out_.dtype, static_cast<std::size_t>(elements));
  }

  const BlockPattern& pattern_;
  TileOperand &p_, &q_;
  float* waiting_;
  BlockValues out_;
};

bool in_tiles(const BlockPattern& pattern) {
  return pattern.block_rows % kHalf == 0 && pattern.block_cols % kHalf == 0;
}

/// For each row of regions, the blocks before it.
std::vector<std::int32_t> region_offsets(const BlockPattern& pattern) {
  std::vector<std::int32_t> offsets;
  const std::int64_t members = RegionWorker::kRegion / pattern.block_rows;
  for (std::int64_t r = 0; r < pattern.rows / pattern.block_rows; r += members)
    offsets.push_back(pattern.row_offsets[static_cast<std::size_t>(r)]);
  offsets.push_back(pattern.row_offsets.back());
  return offsets;
}

}  // namespace

bool fits_amx(const BlockPattern& pattern, const ConstMatrixRef& p) {
  const auto narrow = [](int side) { return side == 8 || side == 16 || side == 32; };
  return p.dtype == DType::kBF16 &&
         (in_tiles(pattern) || (narrow(pattern.block_rows) && narrow(pattern.block_cols)));
}

void sample_blocks_amx(const BlockPattern& pattern, const ConstMatrixRef& p,
                       const ConstMatrixRef& q, const BlockValues& out, ThreadPool& pool) {
  TileOperand p_tiles(p, pattern.rows, sddmm_cpu::TileOrder::kRows);
  TileOperand q_tiles(q, pattern.cols, sddmm_cpu::TileOrder::kPairs);
  const bool waits = p.rows > kSteps;
  Scratch waiting(waits ? static_cast<std::size_t>(out.count) * sizeof(float) : 0);
  float* sums = waits ? waiting.as<float>() : nullptr;
  const std::int64_t columns = TileOperand::groups(pattern.cols);
  const bool whole = in_tiles(pattern);
  const std::vector<std::int32_t> regions =
      whole ? std::vector<std::int32_t>() : region_offsets(pattern);
  for (std::int64_t t = 0; t < p.rows; t += kSteps) {
    const std::int64_t end = std::min(p.rows, t + kSteps);
    p_tiles.pack(t, end, pool);
    q_tiles.pack(t, end, pool);
    const std::int64_t panel = groups_in_l2(q_tiles);
    const std::int64_t panels = ceil_div(columns, panel);
    const bool add = t > 0;
    const bool done = end == p.rows;
    if (whole) {
      SampleWorker worker(pattern, p_tiles, q_tiles, sums, out);
      // Blocks belong to the panel in which they begin.
      const auto block_at = [&](std::int64_t group) {
        return ceil_div(group * sddmm_cpu::kGroupColumns, pattern.block_cols);
      };
      hand_out(pool, pattern.row_offsets.data(), pattern.rows / pattern.block_rows, panels, 1, [&] {
        return [&](std::int64_t turn, std::int64_t first, std::int64_t last) {
          worker.run(first, last, block_at(turn * panel), block_at((turn + 1) * panel), add, done);
        };
      });
    } else {
      RegionWorker worker(pattern, p_tiles, q_tiles, sums, out);
      hand_out(pool, regions.data(), std::ssize(regions) - 1, panels, 1, [&] {
        return [&](std::int64_t turn, std::int64_t first, std::int64_t last) {
          strip::amx_begin(16);
          for (std::int64_t row = first; row < last; ++row)
            worker.run(row, turn * panel, std::min(columns, (turn + 1) * panel), add, done);
          strip::amx_end();
        };
      });
    }
  }
}

}  // namespace rarefy
