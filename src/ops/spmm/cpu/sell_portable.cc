// Sliced ELL in plain C++.
#include <cstring>

#include "ops/spmm/cpu/sell_inner.h"
#include "rarefy/dtype.h"

namespace rarefy {
namespace {

template <class W, class Gap>
void run(const SellJob& job) {
  constexpr std::size_t kStep = 16 * (sizeof(Gap) + sizeof(W));
  for (std::int64_t slice = 0; slice < job.slices; ++slice) {
    const std::byte* end = job.stream + job.offsets[slice + 1];
    for (std::int64_t t = 0; t < job.tokens; ++t) {
      const float* x = job.x + t * job.x_stride;
      std::uint32_t column[16] = {};
      float sum[16] = {};
      for (const std::byte* step = job.stream + job.offsets[slice]; step < end; step += kStep) {
        Gap gaps[16];
        W weights[16];
        std::memcpy(gaps, step, sizeof gaps);
        std::memcpy(weights, step + sizeof gaps, sizeof weights);
        for (int lane = 0; lane < 16; ++lane) {
          column[lane] += gaps[lane];
          sum[lane] += to_float(weights[lane]) * x[column[lane]];
        }
      }
      std::memcpy(job.sums + (slice * job.tokens + t) * 16, sum, sizeof sum);
    }
  }
}

}  // namespace

SellTable sell_portable = {{run<BFloat16, std::uint8_t>, run<BFloat16, std::uint16_t>},
                           {run<Float16, std::uint8_t>, run<Float16, std::uint16_t>},
                           {run<float, std::uint8_t>, run<float, std::uint16_t>}};

}  // namespace rarefy
