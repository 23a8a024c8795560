// The sliced format back as dense rows, for products of many tokens: `dense` is zeros, and every
// nonzero is stored where it belongs.
//
// Block i takes part i % PARTS of range i / PARTS, its warps a slice each at a time.
//
// Constants: VALUE, PART, PARTS, LANES, WARPS (of the blocks that the weight is packed for).
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"

using Value = VALUE;

constexpr int kBatch = 4;
constexpr int kThreads = 256;
constexpr u32 kNoSlot = 0xFFFFu;
constexpr i64 kPlaces = 32 * kBatch * sizeof(u16);
constexpr i64 kBytes = kPlaces + 32 * kBatch * sizeof(Value);

struct alignas(16) Stream {  // As in sliced.cu.
  u32 slice, begin, end, unused;
};

/// Slots behind a range's rows hold pieces: of row extra_rows[extra_begin[range] + …].
extern "C" __global__ void __launch_bounds__(kThreads)
    expand_sliced(const u32* rows, const Stream* streams, const u32* slices, const u16* slots,
                  const u32* extra_begin, const u32* extra_rows, const char* batches, Value* dense,
                  int k) {
  const u32 range = blockIdx.x / PARTS;
  const u32 part = blockIdx.x % PARTS;
  const u32 lane = threadIdx.x % 32;
  const u32 first_row = rows[range];
  const u32 count = rows[range + 1] - first_row;
  const u32 last = streams[(blockIdx.x + 1) * WARPS].slice;
  for (u32 slice = streams[blockIdx.x * WARPS].slice + threadIdx.x / 32; slice < last;
       slice += kThreads / 32) {
    const u32 slot = slots[slice * (32 / LANES) + lane / LANES];
    if (slot == kNoSlot) continue;
    const u32 row = slot < count ? first_row + slot : extra_rows[extra_begin[range] + slot - count];
    Value* const out = dense + static_cast<i64>(row) * k + part * PART;
    for (u32 batch = slices[slice]; batch < slices[slice + 1]; ++batch) {
      const char* const from = batches + batch * kBytes;
      const auto place = reinterpret_cast<const Pack<u16, kBatch>*>(from)[lane];
      const auto value = reinterpret_cast<const Pack<Value, kBatch>*>(from + kPlaces)[lane];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const u32 at = place.value[i];
        if (at < PART)
          out[at ^ (at >> 3 & 7)] = value.value[i];  // Swizzling twice is the way back.
      }
    }
  }
}
