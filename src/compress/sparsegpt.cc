#include "compress/sparsegpt.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

#include "base/check.h"
#include "compress/linear_algebra.h"

namespace rarefy::compress {

Hessian::Hessian(std::int64_t inputs)
    : inputs_(inputs),
      h_(Buffer::zeros(static_cast<std::size_t>(inputs * inputs) * sizeof(float))) {}

void Hessian::add(ConstMatrixRef x, ThreadPool& pool) {
  require(x.cols == inputs_, "Hessian: expected {} inputs, got {}", inputs_, x.cols);
  add_gram(x, h_.as<float>(), pool);
}

InverseFactor factorise(Hessian hessian, double dampening, const std::string& weight_name,
                        ThreadPool& pool) {
  const SingleThreadedBlas one_thread;
  const std::int64_t n = hessian.inputs();
  InverseFactor factor{n, hessian.release(),
                       std::vector<std::uint8_t>(static_cast<std::size_t>(n))};
  const std::span<float> h = factor.upper.span<float>();
  const auto at = [n](std::int64_t i, std::int64_t j) {
    return static_cast<std::size_t>(i * n + j);
  };

  // The lower triangle is mirrored, so that the upper one survives a failed factorisation.
  double trace = 0;
  std::vector<float> diagonal(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    float& d = h[at(i, i)];
    require(std::isfinite(d),
            "{}: expected finite calibration inputs, found a square sum of {} in input {}",
            weight_name, d, i);
    if (d == 0) {
      factor.dead[static_cast<std::size_t>(i)] = 1;
      d = 1;
    }
    diagonal[static_cast<std::size_t>(i)] = d;
    trace += d;
    for (std::int64_t j = 0; j < i; ++j) h[at(j, i)] = h[at(i, j)];
  }
  std::reverse(h.begin(), h.end());  // J H J
  double damp = dampening * trace / static_cast<double>(std::max<std::int64_t>(n, 1));
  constexpr int kAttempts = 6;
  for (int attempt = 0;; ++attempt) {
    for (std::int64_t i = 0; i < n; ++i) {
      h[at(i, i)] = static_cast<float>(diagonal[static_cast<std::size_t>(n - 1 - i)] + damp);
      if (attempt > 0) {
        for (std::int64_t j = 0; j < i; ++j) h[at(i, j)] = h[at(j, i)];
      }
    }
    if (cholesky_lower(h.data(), n, pool)) break;
    require(attempt + 1 < kAttempts,
            "{}: the Hessian of its inputs is not positive definite even with {:.3g} added to its "
            "diagonal; raise dampening_frac or use more calibration samples",
            weight_name, damp);
    damp = std::max(damp * 10, 1e-6 * trace / static_cast<double>(n));
  }
  invert_lower(h.data(), n, pool);
  std::reverse(h.begin(), h.end());
  return factor;
}

namespace {

/// Rows that one task takes through a block of columns: long enough to hide a task's cost, short
/// enough to balance 512 rows.
constexpr std::int64_t kRowsPerTask = 16;

/// One weight on its way: f32 copy, the block of columns at hand and its errors.
class Sweep {
 public:
  Sweep(const DenseWeight& weight, const InverseFactor& factor, const SparseGptRule& rule,
        ThreadPool& pool)
      : original_(weight),
        factor_(factor),
        rule_(rule),
        pool_(pool),
        rows_(weight.rows()),
        cols_(weight.cols()),
        values_(static_cast<std::size_t>(rows_ * cols_) * sizeof(float)),
        losses_(static_cast<std::size_t>(rows_)) {
    pool_.parallel_for(rows_, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        original_.read_floats(row, value_row(row));
        for (std::int64_t j = 0; j < cols_; ++j) {
          if (factor_.dead[static_cast<std::size_t>(j)] != 0) value_row(row)[j] = 0;
        }
      }
    });
  }

  void run() {
    std::int64_t step = std::max<std::int64_t>(rule_.block_size, 1);
    if (rule_.pattern.kind != PrunePattern::Kind::kUnstructured)
      step = (step + rule_.pattern.b - 1) / rule_.pattern.b * rule_.pattern.b;
    errors_ = Buffer(static_cast<std::size_t>(rows_ * std::min(step, cols_)) * sizeof(float));
    for (std::int64_t begin = 0; begin < cols_; begin += step)
      sweep_block(begin, std::min(step, cols_ - begin));
  }

  float* value_row(std::int64_t row) { return values_.as<float>() + row * cols_; }

  [[nodiscard]] double loss() const {
    double sum = 0;
    for (const double l : losses_) sum += l;
    return sum;
  }

 private:
  /// Zero in the checkpoint or without input: such a weight ends as zero whatever its score.
  [[nodiscard]] bool gone(float original, std::int64_t col) const {
    return original == 0 || factor_.dead[static_cast<std::size_t>(col)] != 0;
  }

  void sweep_block(std::int64_t first, std::int64_t width) {
    const auto square = static_cast<std::size_t>(width * width);
    std::vector<float> local(square);  // U[first:first+width, first:first+width], in one piece.
    for (std::int64_t i = 0; i < width; ++i)
      std::copy_n(factor_.row(first + i) + first, width, local.data() + i * width);
    const ScoreGrid scores{rows_, width, [&](std::int64_t row, float* out) {
                             score_row(row, first, width, local.data(), out);
                           }};
    std::optional<Mask> mask;
    if (rule_.pattern.kind != PrunePattern::Kind::kNm)
      mask.emplace(scores, MaskRule{rule_.pattern, rule_.scope, rule_.sparsity}, pool_);
    const std::int64_t unit = mask ? mask->row_step() : 1;
    const std::int64_t task = (kRowsPerTask + unit - 1) / unit * unit;
    pool_.parallel_dynamic((rows_ + task - 1) / task, 1, [&](std::int64_t t0, std::int64_t t1) {
      const std::int64_t begin = t0 * task;
      const std::int64_t end = std::min(rows_, t1 * task);
      std::vector<std::uint8_t> pruned(static_cast<std::size_t>((end - begin) * width));
      std::vector<float> original(static_cast<std::size_t>(width));
      if (mask) mask->rows(begin, end, pruned.data());
      for (std::int64_t row = begin; row < end; ++row) {
        original_.read_floats(row, first, width, original.data());
        sweep_row(row, first, width, local.data(), original.data(),
                  pruned.data() + (row - begin) * width);
      }
    });
    const std::int64_t right = first + width;
    subtract_product(rows_, cols_ - right, width, errors_.as<float>(), width,
                     factor_.row(first) + right, cols_, value_row(0) + right, cols_, pool_);
  }

  /// |w|/U_jj: its square is the loss of dropping w. What is gone scores 0 and goes first.
  void score_row(std::int64_t row, std::int64_t first, std::int64_t width, const float* local,
                 float* out) {
    std::vector<float> original(static_cast<std::size_t>(width));
    original_.read_floats(row, first, width, original.data());
    const float* const values = value_row(row) + first;
    for (std::int64_t j = 0; j < width; ++j) {
      out[j] = gone(original[static_cast<std::size_t>(j)], first + j)
                   ? 0.0F
                   : std::fabs(values[j]) / local[j * width + j];
    }
  }

  void sweep_row(std::int64_t row, std::int64_t first, std::int64_t width, const float* local,
                 const float* original, std::uint8_t* pruned) {
    const bool nm = rule_.pattern.kind == PrunePattern::Kind::kNm;
    const std::int64_t group = nm ? rule_.pattern.b : width;
    std::vector<float> scores(static_cast<std::size_t>(group));
    float* const values = value_row(row) + first;
    float* const errors = errors_.as<float>() + row * width;
    for (std::int64_t j = 0; j < width; ++j) {
      if (gone(original[j], first + j)) pruned[j] = 1;
    }
    double loss = 0;
    for (std::int64_t i = 0; i < width; ++i) {
      if (nm && i % group == 0) choose_group(i, width, local, values, scores.data(), pruned);
      if (pruned[i] == 0) {
        errors[i] = 0;
        continue;
      }
      const float* const u = local + i * width;
      const float error = values[i] / u[i];
      errors[i] = error;
      loss += static_cast<double>(error) * error;
      values[i] = 0;
      for (std::int64_t j = i + 1; j < width; ++j) values[j] -= error * u[j];
    }
    losses_[static_cast<std::size_t>(row)] += loss;
  }

  /// Marks m-n of the group that starts at column i; those marked already are among them.
  void choose_group(std::int64_t i, std::int64_t width, const float* local, const float* values,
                    float* scores, std::uint8_t* pruned) {
    const std::int64_t m = rule_.pattern.b;
    std::vector<std::uint8_t> chosen(static_cast<std::size_t>(m));
    for (std::int64_t j = 0; j < m; ++j) {
      scores[j] =
          pruned[i + j] != 0 ? 0.0F : std::fabs(values[i + j]) / local[(i + j) * width + i + j];
    }
    select_nm(scores, m, rule_.pattern.a, m, chosen.data());
    for (std::int64_t j = 0; j < m; ++j) pruned[i + j] |= chosen[static_cast<std::size_t>(j)];
  }

  const DenseWeight& original_;
  const InverseFactor& factor_;
  const SparseGptRule& rule_;
  ThreadPool& pool_;
  std::int64_t rows_, cols_;
  Buffer values_, errors_;
  std::vector<double> losses_;
};

}  // namespace

double prune_sparsegpt(DenseWeight& weight, const InverseFactor& factor, const SparseGptRule& rule,
                       ThreadPool& pool) {
  require(factor.inputs == weight.cols(), "{}: expected a Hessian of {} inputs, got {}",
          weight.name(), weight.cols(), factor.inputs);
  const Support fits = rule.pattern.fits(weight.rows(), weight.cols());
  require(fits.ok, "{}: {}", weight.name(), fits.reason);
  const SingleThreadedBlas one_thread;
  Sweep sweep(weight, factor, rule, pool);
  sweep.run();
  pool.parallel_for(weight.rows(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) weight.write_floats(row, sweep.value_row(row));
  });
  return sweep.loss();
}

}  // namespace rarefy::compress
