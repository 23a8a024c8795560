// What the tests of the transformer operators share.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "rarefy/cpu.h"
#include "rarefy/error.h"

namespace rarefy::testing {

/// The instruction sets that these operators have kernels for, as far as this CPU goes.
inline std::vector<Isa> available_isas() {
  std::vector<Isa> all;
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    try {
      force_isa(isa);
      all.push_back(isa);
    } catch (const Error&) {
      break;  // the higher ones are not there either
    }
  }
  force_isa(std::nullopt);
  return all;
}

inline std::string isa_name(const ::testing::TestParamInfo<Isa>& info) {
  return to_string(info.param);
}

/// A test that runs once for each instruction set.
class ForEachIsa : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { force_isa(GetParam()); }
  void TearDown() override { force_isa(std::nullopt); }
};

/// Uniform in [-range, range), the same on every machine.
inline std::vector<float> random_floats(std::int64_t count, std::uint64_t seed, float range) {
  std::vector<float> x(static_cast<std::size_t>(count));
  std::uint64_t state = seed * 0x9E3779B97F4A7C15U + 1;
  for (float& v : x) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    v = (static_cast<float>(state >> 40) / static_cast<float>(1 << 23) - 1.0F) * range;
  }
  return x;
}

/// |got - expected| <= tolerance · max(1, |expected|), everywhere.
inline void expect_close(const std::vector<float>& got, const std::vector<float>& expected,
                         float tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_LE(std::abs(got[i] - expected[i]), tolerance * std::max(1.0F, std::abs(expected[i])))
        << "at " << i << ": got " << got[i] << ", expected " << expected[i];
  }
}

}  // namespace rarefy::testing
