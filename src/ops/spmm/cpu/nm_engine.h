// SpMV over N:M rows, kLanes slots of four rows a step, over the Vec of ops/simd/vec_<isa>.h, which
// must be included first; everything is local to the file that does. `P` unpacks places:
//   P(index_width).at(indices, columns)    the columns of kLanes slots, relative to the step's x
// and `Source` is where a step's activations come from:
//   Source(x).pick(places)                 a Vec
#pragma once

#include "ops/spmm/cpu/nm_inner.h"
#include "ops/spmm/cpu/vec_weights.h"

namespace rarefy {
namespace {

using simd::kLanes;
using simd::Vec;

/// Rows walked at once, far apart, so that each runs on into the row that its stream takes next.
constexpr int kRows = 4;
constexpr std::int64_t kPrefetchBytes = 128 * kLanes;

template <class W, class P, class Source, int R>
void rows_at_once(const NmJob& job, std::int64_t row, std::int64_t apart) {
  const P places(job.index_width);
  const auto* values = static_cast<const std::byte*>(job.values) + row * job.row_slots * W::kBytes;
  const std::uint8_t* indices = job.indices + row * job.row_index_bytes;
  Vec sum[R];
  for (int r = 0; r < R; ++r) sum[r] = simd::broadcast(0);
  // The columns of a period repeat; a window advances every step, otherwise x does every period.
  const float* x = job.x;
  std::int64_t phase = 0;
  for (std::int64_t slot = 0; slot < job.row_slots; slot += kLanes) {
    const Source source(x);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const std::byte* v = values + (r * apart * job.row_slots + slot) * W::kBytes;
      const std::uint8_t* i =
          indices + r * apart * job.row_index_bytes + slot / 8 * job.index_width;
      __builtin_prefetch(v + kPrefetchBytes);
      __builtin_prefetch(i + kPrefetchBytes / 8);
      const Vec activations = source.pick(places.at(i, job.columns + phase));
      sum[r] = simd::fma(W::load(v), activations, sum[r]);
    }
    if (job.window != 0) {
      x += job.window;
    } else if (phase += kLanes; phase == job.period) {
      phase = 0;
      x += job.period_columns;
    }
  }
  for (int r = 0; r < R; ++r) job.sums[row + r * apart] = simd::sum(sum[r]);
}

template <class W, class P, class Source>
void all_rows_from(const NmJob& job) {
  const std::int64_t apart = job.rows / kRows;
  for (std::int64_t i = 0; i < apart; ++i) rows_at_once<W, P, Source, kRows>(job, i, apart);
  for (std::int64_t i = apart * kRows; i < job.rows; ++i) rows_at_once<W, P, Source, 1>(job, i, 0);
}

}  // namespace
}  // namespace rarefy
