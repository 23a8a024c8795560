#include "rarefy/dtype.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>

#include "base/check.h"
#include "base/convert_avx2.h"
#include "rarefy/cpu.h"

namespace rarefy {
namespace {

struct DTypeRow {
  DType dtype;
  int bits;
  const char* name;
  const char* file_name;
};

constexpr DTypeRow kRows[] = {
    {DType::kF32, 32, "f32", "F32"},
    {DType::kF16, 16, "f16", "F16"},
    {DType::kBF16, 16, "bf16", "BF16"},
    {DType::kF64, 64, "f64", "F64"},
    {DType::kI64, 64, "i64", "I64"},
    {DType::kI32, 32, "i32", "I32"},
    {DType::kI16, 16, "i16", "I16"},
    {DType::kI8, 8, "i8", "I8"},
    {DType::kU64, 64, "u64", "U64"},
    {DType::kU32, 32, "u32", "U32"},
    {DType::kU16, 16, "u16", "U16"},
    {DType::kU8, 8, "u8", "U8"},
    {DType::kBool, 8, "bool", "BOOL"},
    {DType::kF8E4M3, 8, "f8_e4m3", "F8_E4M3"},
    {DType::kF8E5M2, 8, "f8_e5m2", "F8_E5M2"},
    {DType::kF8E8M0, 8, "f8_e8m0", "F8_E8M0"},
    {DType::kF8E4M3FNUZ, 8, "f8_e4m3fnuz", "F8_E4M3FNUZ"},
    {DType::kF8E5M2FNUZ, 8, "f8_e5m2fnuz", "F8_E5M2FNUZ"},
    {DType::kF6E2M3, 6, "f6_e2m3", "F6_E2M3"},
    {DType::kF6E3M2, 6, "f6_e3m2", "F6_E3M2"},
    {DType::kF4, 4, "f4", "F4"},
    {DType::kC64, 64, "c64", "C64"},
};

const DTypeRow& row(DType dtype) {
  return kRows[static_cast<std::size_t>(dtype)];
}

constexpr bool rows_are_in_enum_order() {
  for (std::size_t i = 0; i < std::size(kRows); ++i) {
    if (static_cast<std::size_t>(kRows[i].dtype) != i) return false;
  }
  return true;
}
static_assert(rows_are_in_enum_order());

template <class From, class To>
void convert_all(const From* from, To* to, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) to[i] = convert<To>(to_float(from[i]));
}

/// How many leading elements a vector unit converted.
std::size_t convert_vectors(const void* from, DType from_dtype, void* to, DType to_dtype,
                            std::size_t count) {
  if (active_isa() < Isa::kAvx2) return 0;
  if (from_dtype == DType::kF32) {
    const auto* floats = static_cast<const float*>(from);
    auto* out = static_cast<std::uint16_t*>(to);
    if (to_dtype == DType::kBF16) return to_bf16_avx2(floats, out, count);
    if (to_dtype == DType::kF16) return to_f16_avx2(floats, out, count);
  }
  if (from_dtype == DType::kF16 && to_dtype == DType::kF32)
    return from_f16_avx2(static_cast<const std::uint16_t*>(from), static_cast<float*>(to), count);
  return 0;
}

template <class From>
void convert_from(const From* from, void* to, DType to_dtype, std::size_t count) {
  switch (to_dtype) {
    case DType::kF32:
      return convert_all(from, static_cast<float*>(to), count);
    case DType::kF16:
      return convert_all(from, static_cast<Float16*>(to), count);
    case DType::kBF16:
      return convert_all(from, static_cast<BFloat16*>(to), count);
    default:
      fail(ErrorKind::kUnsupported, "convert_elements: expected f32, f16 or bf16, got {}",
           to_string(to_dtype));
  }
}

}  // namespace

int bits_of(DType dtype) {
  return row(dtype).bits;
}

std::size_t size_of(DType dtype) {
  const int bits = bits_of(dtype);
  if (bits % 8 != 0) {
    fail(ErrorKind::kUnsupported, "{} elements take {} bits: not addressable by bytes",
         to_string(dtype), bits);
  }
  return static_cast<std::size_t>(bits / 8);
}

const char* to_string(DType dtype) {
  return row(dtype).name;
}
const char* safetensors_name(DType dtype) {
  return row(dtype).file_name;
}

std::optional<DType> dtype_from_safetensors(std::string_view name) {
  for (const DTypeRow& r : kRows) {
    if (name == r.file_name) return r.dtype;
  }
  if (name == "F8_E4M3FN") return DType::kF8E4M3;
  return std::nullopt;
}

std::optional<DType> parse_dtype(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  constexpr std::pair<std::string_view, DType> kAliases[] = {
      {"fp32", DType::kF32},      {"float32", DType::kF32}, {"float", DType::kF32},
      {"fp16", DType::kF16},      {"float16", DType::kF16}, {"half", DType::kF16},
      {"bfloat16", DType::kBF16}, {"float64", DType::kF64}, {"double", DType::kF64}};
  for (const auto& [alias, dtype] : kAliases) {
    if (name == alias) return dtype;
  }
  for (const DTypeRow& r : kRows) {
    if (name == r.name) return r.dtype;
  }
  return std::nullopt;
}

float to_float(Float16 x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000U) << 16;
  const std::uint32_t exponent = (x.bits >> 10) & 0x1FU;
  const std::uint32_t mantissa = x.bits & 0x3FFU;
  if (exponent == 0) {  // Zero and subnormals: mantissa · 2^-24 is exact in binary32.
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  if (exponent == 31) {  // A NaN becomes quiet, as vcvtph2ps has it.
    const std::uint32_t quiet = mantissa != 0 ? 0x400000U : 0U;
    return std::bit_cast<float>(sign | 0x7F800000U | quiet | (mantissa << 13));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

BFloat16 to_bfloat16(float x) {
  std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return {static_cast<std::uint16_t>((bits >> 16) | 0x40U)};
  bits += 0x7FFFU + ((bits >> 16) & 1U);
  return {static_cast<std::uint16_t>(bits >> 16)};
}

Float16 to_float16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {
    return {static_cast<std::uint16_t>(sign | 0x7E00U | ((magnitude >> 13) & 0x3FFU))};
  }
  if (magnitude >= 0x477FF000U)
    return {static_cast<std::uint16_t>(sign | 0x7C00U)};  // >= 65520 rounds to infinity.
  if (magnitude < 0x38800000U) {  // Below 2^-14: adding 0.5 leaves the rounded subnormal in the low
                                  // mantissa bits.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return {
        static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U))};
  }
  const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
  return {static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13))};
}

void convert_elements(const void* from, DType from_dtype, void* to, DType to_dtype,
                      std::size_t count) {
  if (from_dtype == to_dtype) {
    if (count != 0) std::memmove(to, from, count * size_of(from_dtype));
    return;
  }
  if (const std::size_t done = convert_vectors(from, from_dtype, to, to_dtype, count); done != 0) {
    from = static_cast<const std::byte*>(from) + done * size_of(from_dtype);
    to = static_cast<std::byte*>(to) + done * size_of(to_dtype);
    count -= done;
  }
  switch (from_dtype) {
    case DType::kF32:
      return convert_from(static_cast<const float*>(from), to, to_dtype, count);
    case DType::kF16:
      return convert_from(static_cast<const Float16*>(from), to, to_dtype, count);
    case DType::kBF16:
      return convert_from(static_cast<const BFloat16*>(from), to, to_dtype, count);
    default:
      fail(ErrorKind::kUnsupported, "convert_elements: expected f32, f16 or bf16, got {}",
           to_string(from_dtype));
  }
}

}  // namespace rarefy
