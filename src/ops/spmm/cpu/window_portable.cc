// Window weights in plain C++.
#include <algorithm>
#include <bit>
#include <cstring>

#include "ops/spmm/cpu/window_inner.h"
#include "rarefy/dtype.h"

namespace rarefy {
namespace {

template <class W, int kPerLane>
void run(const WindowJob& job) {
  constexpr int kGroups = 4 / kPerLane;
  constexpr std::int64_t kRows = 16 * kGroups;
  std::memset(job.sums, 0,
              static_cast<std::size_t>(job.blocks * job.tokens * kRows) * sizeof(float));
  for (std::int64_t block = 0; block < job.blocks; ++block) {
    const std::byte* masks = job.stream + job.offsets[block];
    const std::byte* data = masks + job.steps[block] * kGroups * sizeof(std::uint16_t);
    float* sums = job.sums + block * job.tokens * kRows;
    std::int64_t column = -128;
    for (std::uint32_t step = 0; step < job.steps[block]; ++step) {
      std::uint16_t mask[kGroups];
      std::memcpy(mask, masks, sizeof mask);
      masks += sizeof mask;
      int most = 0;
      for (std::uint16_t m : mask) most = std::max(most, std::popcount(m));
      column += (std::to_integer<int>(data[0]) >> 7) * 128;
      const std::byte* value = data + 4 * most;
      for (int g = 0; g < kGroups; ++g) {
        int q = 0;
        for (unsigned m = mask[g]; m != 0; m &= m - 1, ++q) {
          const int row = 16 * g + std::countr_zero(m);
          for (int j = 0; j < kPerLane; ++j, value += sizeof(W)) {
            W weight;
            std::memcpy(&weight, value, sizeof weight);
            const int offset = std::to_integer<int>(data[4 * q + kGroups * j + g]) & 0x7f;
            for (std::int64_t t = 0; t < job.tokens; ++t) {
              const auto* x = reinterpret_cast<const float*>(static_cast<const std::byte*>(job.x) +
                                                             t * job.x_stride);
              sums[t * kRows + row] += to_float(weight) * x[column + offset];
            }
          }
        }
      }
      data = value;
    }
  }
}

}  // namespace

void window_bf16_portable(const WindowJob& job) {
  run<BFloat16, 2>(job);
}
void window_f16_portable(const WindowJob& job) {
  run<Float16, 1>(job);
}
void window_f32_portable(const WindowJob& job) {
  run<float, 1>(job);
}

}  // namespace rarefy
