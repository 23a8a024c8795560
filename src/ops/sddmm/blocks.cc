// Places in blocks: whole tiles of sums become whole strips of blocks.
#include <algorithm>
#include <atomic>
#include <utility>

#include "formats/bsr.h"
#include "ops/sddmm/tile_operand.h"
#include "ops/sddmm/tiles.h"
#include "ops/spmm/cpu/strip_engine.h"

namespace rarefy {
namespace {

using sddmm_cpu::kHalfColumns;
using sddmm_cpu::kTileSums;
using sddmm_cpu::StripStore;
using sddmm_cpu::TileOrder;

using Store = int(const StripStore& job);

Store* store_of(DType dtype) {
  if (dtype == DType::kF32) return sddmm_cpu::store_strip_f32_amx;
  return dtype == DType::kF16 ? sddmm_cpu::store_strip_f16_amx : sddmm_cpu::store_strip_bf16_amx;
}

/// One thread's block rows, all of them for one range of t. Tiles have the columns of a block as
/// their lines: that is how a strip lies.
class Worker {
 public:
  struct Job {
    const Bsr& a;
    TileOperand &p, &q;
    std::byte* values;  ///< Of the result.
    float* sums;        ///< Of all blocks, where more than one range of t adds up; else nullptr.
    bool first, last;   ///< Range of t.
  };
  explicit Worker(const Job& job)
      : job_(job),
        store_(store_of(job.a.dtype())),
        strips_(job.a.block_rows() / kHalfColumns),
        halves_(job.a.block_cols() / kHalfColumns),
        own_sums_(job.sums != nullptr ? 0 : block_floats() * sizeof(float)) {}

  /// Returns the nonzeros stored.
  std::int64_t run(std::int64_t begin, std::int64_t end) {
    if (begin == end) return 0;
    const Bsr& a = job_.a;
    strip::amx_begin(16);
    const std::int64_t width =
        std::max<std::int64_t>(1, groups_in_l2(job_.q) * sddmm_cpu::kGroupColumns / a.block_cols());
    std::int64_t nonzeros = 0;
    for (std::int64_t c = 0; c < a.grid_cols(); c += width) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int32_t* columns = a.columns();
        const std::int32_t* row_end = columns + a.row_offsets()[row + 1];
        const std::int32_t* at = std::lower_bound(columns + a.row_offsets()[row], row_end, c);
        for (; at != row_end && *at < c + width; ++at)
          nonzeros += run_block(row, *at, at - columns);
      }
    }
    strip::amx_end();
    return nonzeros;
  }

 private:
  [[nodiscard]] std::size_t block_floats() const {
    return static_cast<std::size_t>(job_.a.block_rows() * job_.a.block_cols());
  }

  std::int64_t run_block(std::int64_t row, std::int64_t column, std::int64_t block) {
    const std::int64_t first_strip = row * strips_;
    const std::int64_t first_half = column * halves_;
    float* sums = job_.sums != nullptr
                      ? job_.sums + block * static_cast<std::int64_t>(block_floats())
                      : own_sums_.as<float>();
    std::int64_t nonzeros = 0;
    // Two by two tiles where both operands have both halves of a group inside the block.
    for (std::int64_t s = 0; s < strips_;) {
      const int strips = (first_strip + s) % 2 == 0 && s + 1 < strips_ ? 2 : 1;
      for (std::int64_t h = 0; h < halves_;) {
        const int halves = (first_half + h) % 2 == 0 && h + 1 < halves_ ? 2 : 1;
        sddmm_cpu::multiply_tiles_amx({.left = job_.q.half(first_half + h),
                                       .right = job_.p.half(first_strip + s),
                                       .left_halves = halves,
                                       .right_halves = strips,
                                       .step_tiles = job_.p.step_tiles(),
                                       .sums = sums,
                                       .add = !job_.first});
        for (int i = 0; job_.last && i < strips * halves; ++i)
          nonzeros +=
              store(sums + i * kTileSums, block, row, s + i / halves, column, h + i % halves);
        sums += strips * halves * kTileSums;
        h += halves;
      }
      s += strips;
      if (job_.sums == nullptr) sums = own_sums_.as<float>();
    }
    return nonzeros;
  }

  /// Strip s, columns 16·h … 16·h + 15 of a block.
  int store(const float* sums, std::int64_t block, std::int64_t row, std::int64_t s,
            std::int64_t column, std::int64_t h) const {
    const Bsr& a = job_.a;
    const auto live = [](std::int64_t all, std::int64_t first) {
      return static_cast<int>(std::clamp<std::int64_t>(all - first, 0, kHalfColumns));
    };
    const std::int64_t element = (s * a.block_cols() + h * kHalfColumns) * kHalfColumns;
    return store_({.sums = sums,
                   .live_rows = live(a.rows(), row * a.block_rows() + s * kHalfColumns),
                   .live_columns = live(a.cols(), column * a.block_cols() + h * kHalfColumns),
                   .strip = job_.values + static_cast<std::size_t>(block) * a.block_bytes() +
                            static_cast<std::size_t>(element) * size_of(a.dtype())});
  }

  const Job& job_;
  Store* store_;
  std::int64_t strips_, halves_;
  Scratch own_sums_;
};

/// First block row of a part with its share of the blocks.
std::int64_t cut(const Bsr& a, std::int64_t part, std::int64_t parts) {
  const std::int64_t* offsets = a.row_offsets();
  if (part == parts) return a.grid_rows();
  return std::lower_bound(offsets, offsets + a.grid_rows(), offsets[a.grid_rows()] * part / parts) -
         offsets;
}

}  // namespace

bool in_tiles(const Matrix& pattern) {
  return pattern.spec().format == Format::kBsr && dynamic_cast<const Bsr&>(pattern).in_strips() &&
         pattern.spec().block_cols % kHalfColumns == 0;
}

MatrixPtr sddmm_blocks(const Matrix& pattern, const ConstMatrixRef& p, const ConstMatrixRef& q,
                       ThreadPool& pool) {
  const auto& a = dynamic_cast<const Bsr&>(pattern);
  const std::int64_t blocks = a.row_offsets()[a.grid_rows()];
  Bsr::Arrays arrays;
  arrays.row_offsets.assign(a.row_offsets(), a.row_offsets() + a.grid_rows() + 1);
  arrays.columns.assign(a.columns(), a.columns() + blocks);
  arrays.values = Buffer(static_cast<std::size_t>(blocks) * a.block_bytes());
  TileOperand p_tiles(p, a.grid_rows() * a.block_rows(), TileOrder::kPairs);
  TileOperand q_tiles(q, a.grid_cols() * a.block_cols(), TileOrder::kRows);
  const bool adds_up = p.rows > kStepsAtOnce;
  Scratch sums(adds_up ? static_cast<std::size_t>(blocks * a.block_rows() * a.block_cols()) *
                             sizeof(float)
                       : 0);
  std::atomic<std::int64_t> nonzeros{0};
  for (std::int64_t t = 0; t < p.rows; t += kStepsAtOnce) {
    const std::int64_t end = std::min(p.rows, t + kStepsAtOnce);
    p_tiles.pack(t, end, pool);
    q_tiles.pack(t, end, pool);
    const Worker::Job job{.a = a,
                          .p = p_tiles,
                          .q = q_tiles,
                          .values = arrays.values.data(),
                          .sums = adds_up ? sums.as<float>() : nullptr,
                          .first = t == 0,
                          .last = end == p.rows};
    pool.run([&](int worker) {
      nonzeros += Worker(job).run(cut(a, worker, pool.size()), cut(a, worker + 1, pool.size()));
    });
  }
  return std::make_shared<Bsr>(a.rows(), a.cols(), a.dtype(), a.spec(), nonzeros.load(),
                               std::move(arrays));
}

}  // namespace rarefy
