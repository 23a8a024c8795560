// The operator library in twenty lines: pack a pruned weight, let the planner choose, multiply,
// compare with the reference.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "rarefy/planner.h"
#include "rarefy/spmm.h"

int main() {
  constexpr std::int64_t kRows = 512, kCols = 768;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> weight(kRows * kCols);
  for (float& w : weight) {
    w = normal(random);
    if (std::abs(w) < 1.2816F) w = 0;  // 80 % of a normal distribution lies within ±1.28 σ.
  }
  std::vector<float> x(kCols);
  std::vector<float> y(kRows);
  for (float& v : x) v = normal(random);

  const rarefy::DenseSource source({weight.data(), rarefy::DType::kF32, kRows, kCols, kCols});
  rarefy::Planner planner;
  const rarefy::Plan plan = planner.plan(source, {});
  const rarefy::MatrixPtr thin = rarefy::pack(source, plan.format);
  const rarefy::Linear linear(thin, plan);

  rarefy::SpmmArgs args;
  args.b = rarefy::matrix_ref(static_cast<const float*>(x.data()), 1, kCols);
  args.c = rarefy::matrix_ref(y.data(), 1, kRows);
  linear.run(args);

  std::vector<double> expected(kRows);
  args.c = {expected.data(), rarefy::DType::kF64, 1, kRows, kRows};
  rarefy::spmm_reference(source, args);
  double worst = 0;
  for (std::int64_t i = 0; i < kRows; ++i) worst = std::max(worst, std::abs(expected[i] - y[i]));
  std::printf("%s: %zu bytes instead of %zu, largest difference %.1e\n", plan.format.name().c_str(),
              thin->bytes(), weight.size() * sizeof(float), worst);
  return worst < 1e-3 ? 0 : 1;
}
