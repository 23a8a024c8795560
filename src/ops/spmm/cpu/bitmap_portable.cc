// Bitmap weights in plain C++: walks the set bits.
#include <bit>
#include <cstring>

#include "ops/spmm/cpu/bitmap_inner.h"
#include "rarefy/dtype.h"

namespace rarefy {
namespace {

template <class W>
void run(const BitmapJob& job) {
  constexpr int kColumns = sizeof(W) == 2 ? 2 : 1;
  constexpr std::size_t kMaskBytes = sizeof(W) == 2 ? 4 : 2;
  std::memset(job.sums, 0, static_cast<std::size_t>(job.blocks * job.tokens * 16) * sizeof(float));
  for (std::int64_t block = 0; block < job.blocks; ++block) {
    const std::byte* tile = job.stream + job.offsets[block];
    const float* x = job.x;
    float* sums = job.sums + block * job.tokens * 16;
    for (std::int64_t i = 0; i < job.tiles; ++i) {
      const std::byte* values = tile + 16 * kMaskBytes;
      for (std::size_t group = 0; group < 16; ++group, x += job.tokens * kColumns) {
        std::uint32_t mask = 0;
        std::memcpy(&mask, tile + group * kMaskBytes, kMaskBytes);
        for (; mask != 0; mask &= mask - 1, values += sizeof(W)) {
          const int lane = std::countr_zero(mask);
          W weight;
          std::memcpy(&weight, values, sizeof weight);
          for (std::int64_t t = 0; t < job.tokens; ++t)
            sums[t * 16 + lane / kColumns] += to_float(weight) * x[t * kColumns + lane % kColumns];
        }
      }
      tile = values;
    }
  }
}

}  // namespace

void bitmap_bf16_portable(const BitmapJob& job) {
  run<BFloat16>(job);
}
void bitmap_f16_portable(const BitmapJob& job) {
  run<Float16>(job);
}
void bitmap_f32_portable(const BitmapJob& job) {
  run<float>(job);
}

}  // namespace rarefy
