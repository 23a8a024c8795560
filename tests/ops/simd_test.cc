// The vectors that the transformer kernels are written over: every instruction set by its exp.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "ops/activation/cpu/kernels.h"
#include "rarefy/cpu.h"

namespace rarefy {
namespace {

std::vector<Isa> available() {
  std::vector<Isa> all;
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    try {
      force_isa(isa);
      all.push_back(isa);
    } catch (const std::exception&) {
    }
  }
  force_isa(std::nullopt);
  return all;
}

struct ForcedIsa {
  explicit ForcedIsa(Isa isa) { force_isa(isa); }
  ~ForcedIsa() { force_isa(std::nullopt); }
};

/// exp through softmax of pairs is inexact; silu(x)·1 = x / (1 + exp(-x)) shows exp directly where
/// exp(-x) is large or small. Here exp itself is recovered from a row {x, 0…0} whose maximum is 0.
std::vector<float> exponentials(const std::vector<float>& x) {
  // Unnormalised terms: softmax(x)[i] / softmax(x)[k] with x[k] = 0 = max gives exp(x[i]) exactly
  // up to one division each.
  std::vector<float> y(x.size());
  activation::kernels().softmax(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  return y;
}

double ulps(float got, double expected) {
  const float nearest = static_cast<float>(expected);
  const float next = std::nextafter(std::abs(nearest), std::numeric_limits<float>::infinity());
  return std::abs(double{got} - expected) / (double{next} - std::abs(nearest));
}

TEST(Simd, ExpWithinTwoUlpOverItsRange) {
  for (Isa isa : available()) {
    const ForcedIsa forced(isa);
    double worst = 0;
    // Each row has its maximum, 0, first, and 30 more terms whose sum is taken out again.
    for (std::uint32_t bits = std::bit_cast<std::uint32_t>(1e-3F);
         bits < std::bit_cast<std::uint32_t>(86.0F); bits += 30 * 457) {
      std::vector<float> x{0.0F};
      for (std::uint32_t i = 0; i < 30; ++i) x.push_back(-std::bit_cast<float>(bits + i * 457));
      const std::vector<float> y = exponentials(x);
      for (std::size_t i = 1; i < x.size(); ++i) {
        const double exact = std::exp(double{x[i]}) * y[0];  // y[0] = 1 / total, as rounded
        worst = std::max(worst, ulps(y[i], exact));
      }
    }
    // Two of exp, and the roundings of the division.
    EXPECT_LE(worst, 3.0) << to_string(isa);
  }
}

TEST(Simd, ExpAtTheEnds) {
  for (Isa isa : available()) {
    const ForcedIsa forced(isa);
    const float inf = std::numeric_limits<float>::infinity();
    const std::vector<float> x{-inf, -1e30F, -104.5F, 0.0F, -inf};
    const std::vector<float> y = exponentials(x);
    EXPECT_EQ(y[0], 0.0F) << to_string(isa);
    EXPECT_EQ(y[1], 0.0F);
    EXPECT_EQ(y[2], 0.0F);
    EXPECT_EQ(y[3], 1.0F);
    EXPECT_EQ(y[4], 0.0F);
    // silu far out: x on the right, 0 on the left, whatever exp does there.
    const std::vector<float> gate{-200.0F, -95.0F, -88.5F, 88.5F, 200.0F, 1e30F};
    const std::vector<float> up(gate.size(), 1.0F);
    std::vector<float> silu(gate.size());
    activation::kernels().swiglu(gate.data(), up.data(), silu.data(), 6);
    EXPECT_NEAR(silu[0], 0.0F, 1e-36F);
    EXPECT_NEAR(silu[1], 0.0F, 1e-36F);
    EXPECT_NEAR(silu[2], -88.5 * std::exp(-88.5), 1e-41);
    EXPECT_EQ(silu[3], 88.5F);
    EXPECT_EQ(silu[4], 200.0F);
    EXPECT_EQ(silu[5], 1e30F);
  }
}

TEST(Simd, LogSumExpAgreesWithDouble) {
  for (Isa isa : available()) {
    const ForcedIsa forced(isa);
    for (std::int64_t width : {1, 3, 4, 15, 16, 17, 100, 2048}) {
      std::vector<float> x;
      double total = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        x.push_back(10.0F * std::sin(static_cast<float>(i * 37 + 1)));
        total += std::exp(double{x.back()});
      }
      EXPECT_NEAR(activation::kernels().log_sum_exp(x.data(), width), std::log(total), 1e-6)
          << to_string(isa) << " " << width;
    }
  }
}

}  // namespace
}  // namespace rarefy
