// Element types: those that Rarefy computes in (f32, f16, bf16) and those that safetensors files
// may carry.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace rarefy {

enum class DType : std::uint8_t {
  kF32,
  kF16,
  kBF16,
  kF64,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kF8E4M3FNUZ,
  kF8E5M2FNUZ,
  kF6E2M3,
  kF6E3M2,
  kF4,
  kC64,
};

/// Bits an element takes in a file: 4 for kF4, 6 for the kF6 types, 64 for kC64.
int bits_of(DType dtype);

/// Bytes an element takes; throws `Error` (kUnsupported) for types narrower than a byte.
std::size_t size_of(DType dtype);

/// Rarefy's short name: "f32", "f16", "bf16", "i8", "f8_e4m3", …
const char* to_string(DType dtype);

/// The name in a safetensors header: "F32", "F16", "BF16", "F8_E4M3", …
const char* safetensors_name(DType dtype);
std::optional<DType> dtype_from_safetensors(std::string_view name);

/// Accepts what people type and what config.json says: "fp32", "f32", "float32", "bf16",
/// "bfloat16", "fp16", "half", …
std::optional<DType> parse_dtype(std::string_view name);

/// True for the types that weights and activations are computed in: f32, f16, bf16.
constexpr bool is_compute_dtype(DType d) {
  return d == DType::kF32 || d == DType::kF16 || d == DType::kBF16;
}

/// bfloat16 as it lies in memory: the upper half of a binary32.
struct BFloat16 {
  std::uint16_t bits = 0;
};

/// IEEE binary16 as it lies in memory.
struct Float16 {
  std::uint16_t bits = 0;
};

inline float to_float(float x) {
  return x;
}

inline float to_float(BFloat16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

float to_float(Float16 x);

/// Rounds to nearest, ties to even; NaN stays NaN (quiet), overflow becomes infinity.
BFloat16 to_bfloat16(float x);
Float16 to_float16(float x);

/// `convert<T>(x)`: x rounded to T, for T in float, BFloat16, Float16.
template <class T>
T convert(float x);
template <>
inline float convert<float>(float x) {
  return x;
}
template <>
inline BFloat16 convert<BFloat16>(float x) {
  return to_bfloat16(x);
}
template <>
inline Float16 convert<Float16>(float x) {
  return to_float16(x);
}

/// Converts `count` elements between any two of f32, f16, bf16 (F16C/AVX-512 where the CPU has
/// them). Ranges must not overlap unless they are equal and the types too.
void convert_elements(const void* from, DType from_dtype, void* to, DType to_dtype,
                      std::size_t count);

}  // namespace rarefy
