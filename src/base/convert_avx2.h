// Conversions that AVX2 and F16C do eight at a time, with the same bits as to_bfloat16 and
// friends. Whole vectors only: each returns how many elements it converted, count rounded down to
// eights, and the caller does the rest.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy {

std::size_t to_bf16_avx2(const float* from, std::uint16_t* to, std::size_t count);
std::size_t to_f16_avx2(const float* from, std::uint16_t* to, std::size_t count);
std::size_t from_f16_avx2(const std::uint16_t* from, float* to, std::size_t count);

}  // namespace rarefy
