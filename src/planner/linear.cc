// A weight with its plan: packing as planned, dispatch by the number of columns.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "rarefy/log.h"
#include "rarefy/planner.h"

namespace rarefy {
namespace {

/// Index of the step that holds n: the last one that begins at or before it.
std::size_t step_index(const std::vector<PlanStep>& steps, std::int64_t n) {
  const auto after =
      std::upper_bound(steps.begin(), steps.end(), n,
                       [](std::int64_t value, const PlanStep& step) { return value < step.n_min; });
  return after == steps.begin() ? 0 : static_cast<std::size_t>(after - steps.begin()) - 1;
}

/// Plans are shared by weights whose densities lie within one step of this width.
constexpr double kDensityStep = 0.04;

void check_shape(const RowSource& weight, const Plan& plan) {
  if (plan.rows < 0) return;
  require(weight.rows() == plan.rows && weight.cols() == plan.cols,
          "linear: weight: expected {}x{}, for which the plan was made, got {}x{}", plan.rows,
          plan.cols, weight.rows(), weight.cols());
}

/// A dense plan is never wrong, only slower than it might be, and its nonzeros are not counted.
void say_what_changed(const Matrix& packed, const Plan& plan) {
  if (plan.nnz < 0 || packed.spec().format == Format::kDense) return;
  const double positions = static_cast<double>(packed.rows()) * static_cast<double>(packed.cols());
  const double now = static_cast<double>(packed.nnz()) / std::max(positions, 1.0);
  const double then = static_cast<double>(plan.nnz) / std::max(positions, 1.0);
  if (std::abs(now - then) <= kDensityStep) return;
  log_lines(
      fmt::format("linear: the weight changed since it was planned ({:.1f} % nonzero then, "
                  "{:.1f} % now): {} may no longer be the best; plan it again",
                  100 * then, 100 * now, plan.format.name()));
}

}  // namespace

const PlanStep& Plan::step(std::int64_t n) const {
  require(!steps.empty(), "plan: expected at least one step, got none");
  return steps[step_index(steps, n)];
}

Linear::Linear(MatrixPtr matrix, Plan plan) : matrix_(std::move(matrix)), plan_(std::move(plan)) {
  require(matrix_ != nullptr, "linear: matrix: expected one, got null");
  require(matrix_->spec() == plan_.format, "linear: matrix: expected the plan's format {}, got {}",
          plan_.format.name(), matrix_->spec().name());
  for (const PlanStep& step : plan_.steps) {
    const SpmmKernel* kernel = find_spmm_kernel(step.kernel);
    require(kernel != nullptr || step.kernel.empty(), "linear: plan: no kernel is named '{}'",
            step.kernel);
    kernels_.push_back(kernel);
  }
}

void Linear::run(const SpmmArgs& args, ThreadPool& pool) const {
  require(matrix_ != nullptr, "linear: expected a weight, got none");
  const std::int64_t n = args.layout == Layout::kTokenMajor ? args.b.rows : args.b.cols;
  const SpmmKernel* kernel = kernels_.empty() ? nullptr : kernels_[step_index(plan_.steps, n)];
  if (kernel != nullptr) {
    // A plan is made for certain dtypes; other calls are rarer, slower, and right all the same.
    const SpmmProblem problem{.m = matrix_->rows(),
                              .k = matrix_->cols(),
                              .n = n,
                              .weight = matrix_->dtype(),
                              .activations = args.b.dtype,
                              .output = args.c.dtype,
                              .precision = args.precision,
                              .threads = pool.size()};
    if (!kernel->supports(matrix_->spec(), problem)) kernel = nullptr;
  }
  spmm(*matrix_, args, pool, kernel);
}

Linear make_linear(std::shared_ptr<const RowSource> weight, Plan plan, ThreadPool& pool) {
  require(weight != nullptr, "linear: weight: expected one, got null");
  check_shape(*weight, plan);
  const void* rows = weight->dense_data();
  if (plan.format == format::kDense && rows != nullptr) {
    const ConstMatrixRef ref{rows, weight->dtype(), weight->rows(), weight->cols(), weight->cols()};
    return {borrow_dense(ref, std::move(weight), pool), std::move(plan)};
  }
  MatrixPtr packed = pack(*weight, plan.format, pool);
  say_what_changed(*packed, plan);
  return {std::move(packed), std::move(plan)};
}

Linear make_linear(std::shared_ptr<const RowSource> weight, Planner& planner,
                   const PlanRequest& request, ThreadPool& pool) {
  require(weight != nullptr, "linear: weight: expected one, got null");
  Plan plan = planner.plan(*weight, request);
  return make_linear(std::move(weight), std::move(plan), pool);
}

}  // namespace rarefy
