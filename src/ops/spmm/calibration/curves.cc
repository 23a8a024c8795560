// The two curves of a calibration: how they are fitted and what follows from them.
#include <algorithm>
#include <cmath>

#include "rarefy/calibration.h"

namespace rarefy {
namespace {

struct Line {
  double constant = 0, slope = 0;
};

/// Least squares of (constant + slope·x) / y - 1: every density counts alike, whatever it takes.
/// Where the best line has a negative part, that part is 0 and the other is fitted alone.
template <class Y>
Line fit(const std::vector<const BlockTiming*>& points, Y&& y_of) {
  double s0 = 0;
  double s1 = 0;
  double s2 = 0;
  double t0 = 0;
  double t1 = 0;
  for (const BlockTiming* p : points) {
    const double y = y_of(*p);
    if (y <= 0) continue;
    const double w = 1 / y;
    s0 += w * w;
    s1 += w * w * p->density;
    s2 += w * w * p->density * p->density;
    t0 += w;
    t1 += w * p->density;
  }
  if (s0 <= 0) return {};
  const double determinant = s0 * s2 - s1 * s1;
  const Line flat{t0 / s0, 0};
  if (determinant <= 1e-12 * s0 * s2) return flat;
  const Line line{(t0 * s2 - t1 * s1) / determinant, (s0 * t1 - s1 * t0) / determinant};
  if (line.slope < 0) return flat;
  if (line.constant < 0) return {0, t1 / s2};
  return line;
}

double mean(const std::vector<const BlockTiming*>& points, double BlockTiming::*of) {
  double sum = 0;
  for (const BlockTiming* p : points) sum += p->*of;
  return points.empty() ? 0 : sum / static_cast<double>(points.size());
}

}  // namespace

const char* to_string(Band band) {
  constexpr const char* kNames[] = {"empty", "sparse", "swing", "dense"};
  return kNames[static_cast<int>(band)];
}

double BlockCurve::sparse_until(double margin) const {
  // margin · (sparse_ns + sparse_slope·d) = dense_ns + dense_slope·d
  const double slope = margin * sparse_slope - dense_slope;
  const double room = dense_ns - margin * sparse_ns;
  if (slope <= 0) return room >= 0 ? 1.0 : 0.0;
  return std::clamp(room / slope, 0.0, 1.0);
}

Band BlockCurve::band(double density) const {
  if (density <= 0) return Band::kEmpty;
  if (density < sparse_until(kMargin)) return Band::kSparse;
  return density < sparse_until(1 / kMargin) ? Band::kSwing : Band::kDense;
}

const BlockCurve* BlockCalibration::curve(DType dtype, std::int64_t n) const {
  const BlockCurve* best = nullptr;
  const auto distance = [n](const BlockCurve& c) {
    return std::abs(std::log(static_cast<double>(c.n) / static_cast<double>(n)));
  };
  for (const BlockCurve& c : curves) {
    if (c.dtype == dtype && (best == nullptr || distance(c) < distance(*best))) best = &c;
  }
  return best;
}

double BlockCalibration::stored_ns(const BlockCurve& curve, int block_rows, int block_cols) const {
  std::vector<const BlockTiming*> points;
  for (const BlockTiming& t : timings) {
    if (t.dtype == curve.dtype && t.n == curve.n && t.block_rows == block_rows &&
        t.block_cols == block_cols)
      points.push_back(&t);
  }
  return points.empty() ? curve.dense_ns : mean(points, &BlockTiming::dense_ns);
}

std::vector<BlockCurve> fit_curves(const std::vector<BlockTiming>& timings) {
  std::vector<BlockCurve> curves;
  for (const BlockTiming& first : timings) {
    if (std::any_of(curves.begin(), curves.end(),
                    [&](const BlockCurve& c) { return c.dtype == first.dtype && c.n == first.n; }))
      continue;
    std::vector<const BlockTiming*> points;
    for (const BlockTiming& t : timings) {
      if (t.dtype == first.dtype && t.n == first.n) points.push_back(&t);
    }
    const Line dense = fit(points, [](const BlockTiming& t) { return t.dense_ns; });
    const Line sparse = fit(points, [](const BlockTiming& t) { return t.sparse_ns; });
    curves.push_back({first.dtype, first.n, dense.constant, dense.slope, sparse.constant,
                      sparse.slope, mean(points, &BlockTiming::call_us),
                      mean(points, &BlockTiming::whole_ns)});
  }
  return curves;
}

}  // namespace rarefy
