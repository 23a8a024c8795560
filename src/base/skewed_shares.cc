#include "base/skewed_shares.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rarefy {

double skewed_block_zeros(double overall, double u) {
  constexpr double kLow = 0.30;
  constexpr double kHigh = 0.99;
  if (overall <= kLow + 0.01) return 2 * overall * u;
  if (overall >= kHigh - 0.001) return overall;
  const double power = (kHigh - kLow) / (overall - kLow) - 1;
  return kLow + (kHigh - kLow) * std::pow(u, power);
}

std::vector<double> skewed_row_densities(std::size_t rows, double zeros,
                                         const std::function<double(std::size_t i)>& uniform) {
  constexpr double kSigma = 0.8;
  std::vector<double> density(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    const double u = 1.0 - uniform(2 * r);
    const double v = uniform(2 * r + 1);
    density[r] =
        std::exp(kSigma * std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v));
  }
  const double wanted = 1 - zeros;
  const auto mean = [&](double scale) {
    double sum = 0;
    for (const double d : density) sum += std::min(1.0, scale * d);
    return density.empty() ? 1.0 : sum / static_cast<double>(density.size());
  };
  double low = 0;
  double high = 1;
  while (mean(high) < wanted && high < 1e9) high *= 2;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (mean(middle) < wanted ? low : high) = middle;
  }
  for (double& d : density) d = std::min(1.0, high * d);
  return density;
}

}  // namespace rarefy
