// RMSNorm of one row, one kernel an instruction set.
#pragma once

#include <cstdint>

namespace rarefy::norm {

/// y[i] = x[i] · weight[i] / sqrt(mean(x²) + eps) for i < width; y may be x.
using RowKernel = void (*)(const float* x, const float* weight, float eps, float* y,
                           std::int64_t width);

void row_portable(const float* x, const float* weight, float eps, float* y, std::int64_t width);
#if defined(__x86_64__)
void row_avx2(const float* x, const float* weight, float eps, float* y, std::int64_t width);
void row_avx512(const float* x, const float* weight, float eps, float* y, std::int64_t width);
#endif

}  // namespace rarefy::norm
