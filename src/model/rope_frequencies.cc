#include "model/rope_frequencies.h"

#include <cmath>
#include <numbers>

namespace rarefy::model {
namespace {

double llama3_scaled(double frequency, const RopeConfig& rope) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const auto original = static_cast<double>(rope.original_max_position);
  if (wavelength > original / rope.low_freq_factor) return frequency / rope.factor;
  if (wavelength < original / rope.high_freq_factor) return frequency;
  const double smooth = (original / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
}

}  // namespace

std::vector<double> rope_frequencies(const RopeConfig& rope, std::int64_t head_dim) {
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < head_dim; i += 2) {
    const double plain =
        std::pow(rope.theta, -static_cast<double>(i) / static_cast<double>(head_dim));
    switch (rope.type) {
      case RopeType::kDefault:
        frequencies.push_back(plain);
        break;
      case RopeType::kLinear:
        frequencies.push_back(plain / rope.factor);
        break;
      case RopeType::kLlama3:
        frequencies.push_back(llama3_scaled(plain, rope));
        break;
    }
  }
  return frequencies;
}

}  // namespace rarefy::model
