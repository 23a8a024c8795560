#include "rarefy/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "rarefy/cpu.h"
#include "rarefy/error.h"

namespace rarefy {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(DType, NamesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(DType::kC64); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_safetensors(safetensors_name(dtype)), dtype);
    EXPECT_EQ(parse_dtype(to_string(dtype)), dtype);
  }
  EXPECT_EQ(parse_dtype("torch.bfloat16"), DType::kBF16);
  EXPECT_EQ(parse_dtype("fp16"), DType::kF16);
  EXPECT_FALSE(parse_dtype("f17"));
  EXPECT_FALSE(dtype_from_safetensors("f32"));
}

TEST(DType, SizesOfSubByteTypesAreRefused) {
  EXPECT_EQ(size_of(DType::kBF16), 2U);
  EXPECT_EQ(bits_of(DType::kF4), 4);
  EXPECT_THROW(size_of(DType::kF6E2M3), Error);
}

TEST(DType, EveryHalfSurvivesARoundTrip) {
  for (std::uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const Float16 half{static_cast<std::uint16_t>(bits)};
    const float value = to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(to_float(to_float16(value)))) << bits;
    } else {
      EXPECT_EQ(to_float16(value).bits, half.bits) << value;
    }
    const BFloat16 brain{static_cast<std::uint16_t>(bits)};
    if (!std::isnan(to_float(brain))) {
      EXPECT_EQ(to_bfloat16(to_float(brain)).bits, brain.bits);
    }
  }
}

TEST(DType, HalfRoundsToNearestEven) {
  EXPECT_EQ(to_float16(1.0F + 0x1p-11F).bits, 0x3C00);      // Halfway, down to even.
  EXPECT_EQ(to_float16(1.0F + 3 * 0x1p-11F).bits, 0x3C02);  // Halfway, up to even.
  EXPECT_EQ(to_float16(65519.0F).bits, 0x7BFF);             // Largest that stays finite.
  EXPECT_EQ(to_float16(65520.0F).bits, 0x7C00);
  EXPECT_EQ(to_float16(0x1p-25F).bits, 0);  // Half of the least subnormal ties to zero.
  EXPECT_EQ(to_float16(std::nextafter(0x1p-25F, 1.0F)).bits, 1);
  EXPECT_EQ(to_float16(-kInfinity).bits, 0xFC00);
}

TEST(DType, BrainRoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(to_bfloat16(1.0F + 0x1p-8F).bits, 0x3F80);
  EXPECT_EQ(to_bfloat16(1.0F + 3 * 0x1p-8F).bits, 0x3F82);
  EXPECT_EQ(to_bfloat16(std::numeric_limits<float>::max()).bits, 0x7F80);
  const float low_nan =
      std::bit_cast<float>(0x7F800001U);  // Its upper half alone would be infinity.
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(low_nan))));
}

TEST(DType, ConvertsArraysBetweenAllComputeTypes) {
  const std::vector<float> values{0.0F, -0.0F, 1.5F, -3.25F, 1e-8F, 70000.0F, kInfinity};
  for (DType from : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<std::uint32_t> source(values.size());
    convert_elements(values.data(), DType::kF32, source.data(), from, values.size());
    for (DType to : {DType::kF32, DType::kF16, DType::kBF16}) {
      std::vector<std::uint32_t> target(values.size());
      std::vector<float> back(values.size());
      convert_elements(source.data(), from, target.data(), to, values.size());
      convert_elements(target.data(), to, back.data(), DType::kF32, values.size());
      EXPECT_EQ(back[2], 1.5F);
      EXPECT_EQ(back[3], -3.25F);
      EXPECT_TRUE(std::signbit(back[1]));
      EXPECT_EQ(back[6], kInfinity);
    }
  }
  std::int32_t out = 0;
  EXPECT_THROW(convert_elements(values.data(), DType::kF32, &out, DType::kI32, 1), Error);
}

// Every pair of types, at lengths that leave a rest, must give the bits of the scalar conversions.
TEST(DType, VectorConversionsGiveTheBitsOfScalarOnes) {
  std::vector<std::uint16_t> halves(65536);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
  std::vector<std::uint32_t> singles;
  for (std::uint64_t bits = 0; bits < 1ULL << 32; bits += 0x10007)
    singles.push_back(static_cast<std::uint32_t>(bits));
  for (std::uint32_t edge : {0x7F800000U, 0xFF800001U, 0x7FFFFFFFU, 0x477FEFFFU, 0x477FF000U,
                             0x33000000U, 0x33000001U, 0x387FFFFFU, 0x00000001U, 0x7F7F8000U})
    singles.push_back(edge);

  const auto converted = [](const void* from, DType from_dtype, DType to_dtype, std::size_t count) {
    std::vector<std::byte> out(count * size_of(to_dtype));
    convert_elements(from, from_dtype, out.data(), to_dtype, count);
    return out;
  };
  struct Case {
    const void* from;
    DType from_dtype, to_dtype;
    std::size_t count;
  };
  const Case cases[] = {
      {singles.data(), DType::kF32, DType::kBF16, singles.size()},
      {singles.data(), DType::kF32, DType::kF16, singles.size()},
      {halves.data(), DType::kF16, DType::kF32, halves.size()},
      {halves.data(), DType::kF16, DType::kBF16, halves.size() - 3},
      {halves.data(), DType::kBF16, DType::kF32, halves.size()},
      {halves.data(), DType::kBF16, DType::kF16, halves.size() - 5},
  };
  for (const Case& c : cases) {
    force_isa(Isa::kPortable);
    const auto expected = converted(c.from, c.from_dtype, c.to_dtype, c.count);
    force_isa(std::nullopt);
    EXPECT_EQ(converted(c.from, c.from_dtype, c.to_dtype, c.count), expected)
        << to_string(c.from_dtype) << " to " << to_string(c.to_dtype);
  }
}

}  // namespace
}  // namespace rarefy
