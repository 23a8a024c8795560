// SDDMM: the entry that checks, and the walk over panels of t and ranges of columns.
#include "rarefy/sddmm.h"

#include <algorithm>

#include "base/check.h"
#include "ops/sddmm/cpu/sddmm_inner.h"
#include "ops/sddmm/places.h"
#include "ops/sddmm/tiles.h"
#include "ops/spmm/cpu/strip_activations.h"
#include "ops/spmm/scratch.h"
#include "rarefy/cpu.h"

namespace rarefy {
namespace {

constexpr int kMostVectors = 8;
/// Columns of Q that a range keeps in L1.
constexpr std::int64_t kRangeBytes = 32 << 10;

void check_operand(const char* name, const ConstMatrixRef& x, std::int64_t cols,
                   const char* cols_name) {
  require(x.cols == cols, "sddmm: {}: expected {} = {} columns, got {}", name, cols_name, cols,
          x.cols);
  require(x.row_stride >= x.cols, "sddmm: {}: expected a row stride of at least {}, got {}", name,
          x.cols, x.row_stride);
  require(x.data != nullptr || x.rows * x.cols == 0, "sddmm: {}: data is null", name);
  require(is_compute_dtype(x.dtype), "sddmm: {}: expected f32, f16 or bf16, got {}", name,
          to_string(x.dtype));
}

sddmm_cpu::Run* active_run() {
  const Isa isa = active_isa();
  if (isa >= Isa::kAvx512) return sddmm_cpu::run_avx512;
  return isa >= Isa::kAvx2 ? sddmm_cpu::run_avx2 : sddmm_cpu::run_portable;
}

/// First row of a part with its share of the places; rows themselves count a little.
std::int64_t cut(const std::int64_t* offsets, std::int64_t rows, std::int64_t part,
                 std::int64_t parts) {
  const std::int64_t target = (offsets[rows] + rows) * part / parts;
  std::int64_t low = 0;
  std::int64_t high = rows;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (offsets[middle] + middle < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/// Place by place, with multiply-adds.
void compute_places(const Matrix& pattern, const Places& places, const ConstMatrixRef& p,
                    const ConstMatrixRef& q, float* values, ThreadPool& pool) {
  int vectors = 1;
  while (vectors < kMostVectors && 16 * vectors < p.rows) vectors *= 2;
  const std::int64_t panel_tokens = std::int64_t{16} * vectors;
  const std::int64_t range =
      kRangeBytes / (panel_tokens * static_cast<std::int64_t>(sizeof(float)));
  const std::int64_t cols = pattern.cols();
  // Panels of t one after the other: P and Q of one panel are all that is repacked at a time.
  for (std::int64_t t = 0; t < p.rows; t += panel_tokens) {
    const auto panel_of = [&](ConstMatrixRef x) {
      x.data = static_cast<const std::byte*>(x.data) +
               static_cast<std::size_t>(t * x.row_stride) * size_of(x.dtype);
      x.rows = std::min(panel_tokens, x.rows - t);
      return x;
    };
    const auto tiles = strip::TokenTiles::of(1, panel_tokens);
    const strip::FmaActivations p_panel(panel_of(p), tiles, pattern.rows(), pool);
    const strip::FmaActivations q_panel(panel_of(q), tiles, cols, pool);
    pool.run([&](int worker) {
      const std::int64_t begin = cut(places.offsets(), pattern.rows(), worker, pool.size());
      const std::int64_t end = cut(places.offsets(), pattern.rows(), worker + 1, pool.size());
      if (begin == end) return;
      Scratch next_storage(static_cast<std::size_t>(end - begin) * sizeof(std::int64_t));
      auto* next = next_storage.as<std::int64_t>();
      std::copy(places.offsets() + begin, places.offsets() + end, next);
      for (std::int64_t k = 0; k < cols; k += range) {
        active_run()({.row_offsets = places.offsets(),
                      .columns = places.column(),
                      .row_begin = begin,
                      .row_end = end,
                      .k_end = std::min(cols, k + range),
                      .next = next,
                      .p = static_cast<const float*>(p_panel.get().data),
                      .q = static_cast<const float*>(q_panel.get().data),
                      .values = values,
                      .add = t > 0},
                     vectors);
      }
    });
  }
}

bool takes_tiles(const ConstMatrixRef& p) {
  return active_isa() >= Isa::kAmx && p.dtype == DType::kBF16 && p.rows > 0;
}

void compute(const Matrix& pattern, const Places& places, const ConstMatrixRef& p,
             const ConstMatrixRef& q, float* values, ThreadPool& pool) {
  if (!takes_tiles(p)) return compute_places(pattern, places, p, q, values, pool);
  const Places others = sddmm_regions(places, pattern.cols(), p, q, values, pool);
  const std::int64_t left = others.offsets()[pattern.rows()];
  if (left == 0) return;
  if (left == places.offsets()[pattern.rows()])
    return compute_places(pattern, places, p, q, values, pool);
  Scratch other_values(static_cast<std::size_t>(left) * sizeof(float));
  compute_places(pattern, others, p, q, other_values.as<float>(), pool);
  merge_values(places, others, pattern.rows(), other_values.as<float>(), values, pool);
}

}  // namespace

MatrixPtr sddmm(const Matrix& pattern, ConstMatrixRef p, ConstMatrixRef q, ThreadPool& pool) {
  check_operand("p", p, pattern.rows(), "M");
  check_operand("q", q, pattern.cols(), "K");
  require(p.rows == q.rows, "sddmm: q: expected T = {} rows as p has, got {}", p.rows, q.rows);
  require(p.dtype == q.dtype, "sddmm: q: expected p's dtype {}, got {}", to_string(p.dtype),
          to_string(q.dtype));
  if (takes_tiles(p) && in_tiles(pattern)) return sddmm_blocks(pattern, p, q, pool);
  const Places places = places_of(pattern, pool);
  const std::int64_t count = places.offsets()[pattern.rows()];
  Scratch values(static_cast<std::size_t>(count) * sizeof(float));
  if (p.rows == 0) std::fill_n(values.as<float>(), count, 0.0F);
  if (count > 0) compute(pattern, places, p, q, values.as<float>(), pool);
  return with_values(pattern, places, values.as<float>(), pool);
}

}  // namespace rarefy
