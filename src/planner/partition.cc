#include "planner/partition.h"

#include <algorithm>
#include <cmath>

#include "formats/hybrid_shares.h"

namespace rarefy::planning {
namespace {

constexpr double kTilePositions = 512;

/// Nanoseconds of a hybrid by the curves.
double split_ns(const FormatSpec& spec, const PatternStats& pattern, const BlockCurve& curve) {
  const HybridShares s = hybrid_shares(spec, pattern);
  const double whole = static_cast<double>(pattern.rows) * static_cast<double>(pattern.cols);
  double ns =
      (s.tiles * kTilePositions * curve.dense_ns + s.tile_nonzeros * curve.dense_slope) / 1024;
  if (s.sparse_nonzeros == 0) return ns;
  // The constant of the sparse side is what a call takes for lists at all, over half of the
  // calibrated weight; it does not shrink with the part that is sparse.
  ns += (s.sparse_nonzeros * curve.sparse_slope + whole / 2 * curve.sparse_ns) / 1024;
  return ns;
}

bool some_tiles_empty(const PatternStats& pattern) {
  const HybridShares s = hybrid_shares(format::hybrid(32, 32, 0), pattern);
  const double all = std::ceil(static_cast<double>(pattern.rows) / 32) * 2 *
                     std::ceil(static_cast<double>(pattern.cols) / 32);
  return s.tiles < 0.98 * all;
}

bool rows_died(const PatternStats& pattern) {
  const auto dead = std::count(pattern.row_nnz.begin(), pattern.row_nnz.end(), 0);
  return dead * 16 >= std::ssize(pattern.row_nnz) && dead < std::ssize(pattern.row_nnz);
}

}  // namespace

BlockCurve assumed_curve(std::int64_t n) {
  const double vectors = std::ceil(static_cast<double>(n) / 16);
  return {.dtype = DType::kBF16,
          .n = n,
          .dense_ns = 20 + 7.5 * vectors,
          .dense_slope = 20,
          .sparse_ns = 1.5 * vectors,
          .sparse_slope = 1024 * (0.25 + 0.17 * vectors)};
}

std::vector<FormatSpec> hybrid_formats(const PatternStats& pattern, DType dtype,
                                       const PlanRequest& request,
                                       const BlockCalibration* calibration) {
  std::int64_t n = 0;
  for (const Workload& workload : request.workloads) n = std::max(n, workload.n);
  const bool asked_for_others = !request.formats.empty();
  if (dtype != DType::kBF16 || n <= 16 || pattern.nnz == 0 || asked_for_others) return {};
  const BlockCurve* measured = calibration != nullptr ? calibration->curve(dtype, n) : nullptr;
  const BlockCurve curve = measured != nullptr ? *measured : assumed_curve(n);

  std::vector<FormatSpec> formats;
  if (some_tiles_empty(pattern)) formats.push_back(format::hybrid(32, 32, 0));
  if (rows_died(pattern)) formats.push_back(format::hybrid(32, 32, 0, true));

  const FormatSpec tiles = format::hybrid(32, 32, 0);
  const double tiles_ns = split_ns(tiles, pattern, curve);
  const int below = static_cast<int>(std::lround(1024 * curve.sparse_until()));
  if (below <= 0) return formats;
  FormatSpec best = tiles;
  double best_ns = 0.98 * tiles_ns;
  constexpr std::pair<int, int> kBlocks[] = {{32, 32}, {64, 64}, {32, 128}, {128, 128}, {64, 512}};
  for (const auto& [rows, cols] : kBlocks) {
    for (const bool sort : {false, true}) {
      const FormatSpec spec = format::hybrid(rows, cols, below, sort);
      const double ns = split_ns(spec, pattern, curve);
      if (ns >= best_ns) continue;
      best = spec;
      best_ns = ns;
    }
  }
  if (!(best == tiles)) formats.push_back(best);
  return formats;
}

}  // namespace rarefy::planning
