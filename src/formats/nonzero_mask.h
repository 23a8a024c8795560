// Masks of nonzeros by instruction set; called through `nonzero_mask` in panels.h.
#pragma once

#include <cstdint>

namespace rarefy {

std::int64_t nonzero_mask16_avx2(const std::uint16_t* values, std::int64_t count,
                                 std::uint64_t* masks);
std::int64_t nonzero_mask32_avx2(const std::uint32_t* values, std::int64_t count,
                                 std::uint64_t* masks);
std::int64_t nonzero_mask16_avx512(const std::uint16_t* values, std::int64_t count,
                                   std::uint64_t* masks);
std::int64_t nonzero_mask32_avx512(const std::uint32_t* values, std::int64_t count,
                                   std::uint64_t* masks);

}  // namespace rarefy
