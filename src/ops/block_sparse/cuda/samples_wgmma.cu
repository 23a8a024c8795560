// The stored blocks of Pᵀ·Q, sums over tokens, by wgmma on Hopper.
//
// A block of the grid goes through tasks (sample_grids.h): strips of P, 64 columns each, by those
// strips of Q that they are needed with. Each of its two warpgroups multiplies one strip of P with
// TOGETHER strips of Q. Tokens are along K and both operands lie token by token, so both are
// transposed ones; strips of Q follow each other in shared memory, wherever they are in Q, which
// makes them one operand. Of the products, stored pieces alone are written. Where blocks are low
// several rows of them share a strip of P, and what one of them needs is multiplied for all.
//
// TOKENS a stage come by the tensor copy engine. Four warps have them brought, a quarter of the
// strips each: a box takes a warp longer to ask for than its products take.
//
// Constants: ROWS, COLUMNS (of a piece: 16, 32 or 64), BLOCK_COLUMNS (of a stored block), STRIP
// (columns of Q), MOST_ROWS, MOST_COLUMNS (strips of a task), TOGETHER, TOKENS, STAGES, X_TYPE (of
// all matrices). multiply() for STRIP · TOGETHER columns and the dtype stands in front.
#include "cuda/number.cuh"
#include "cuda/operand.cuh"
#include "cuda/register_shares.cuh"
#include "cuda/shared_barrier.cuh"
#include "cuda/shared_words.cuh"
#include "cuda/tensor_copy.cuh"
#include "cuda/warpgroup.cuh"

using X = X_TYPE;

constexpr int kGroups = 2, kFeeding = 4;  // Warpgroups that multiply; warps that feed them.
constexpr int kThreads = (kGroups + 1) * 128;
constexpr int kHeight = 64;  // Columns of a strip of P.
constexpr int kRowStrip = TOKENS * kHeight * 2, kColumnStrip = TOKENS * STRIP * 2;
constexpr int kStageBytes = MOST_ROWS * kRowStrip + MOST_COLUMNS * kColumnStrip;
constexpr int kHigh = kHeight / ROWS, kWide = STRIP / COLUMNS;  // Pieces of a strip.
constexpr int kPlaces = TOGETHER * kWide;                       // Of a warp.
constexpr u32 kNone = ~0u;
static_assert(kRowStrip % 1024 == 0 && kColumnStrip % 1024 == 0, "descriptors have no offset");
static_assert(kPlaces <= 32 && MOST_COLUMNS <= 32, "a lane for each");
static_assert(MOST_ROWS <= kGroups && TOGETHER <= MOST_COLUMNS);

struct alignas(16) Task {
  u32 row;           ///< First column of P.
  u32 strip;         ///< First of its strips of Q.
  u32 place;         ///< First of its places: by rows of pieces, and along them.
  u8 rows, columns;  ///< How many strips.
  u8 second;         ///< Strip of Q that the second warpgroup begins with.
};

struct Ring {
  u32 base, slot = 0, phase;

  __device__ __forceinline__ u32 at() const { return base + slot * kStageBytes; }
  __device__ __forceinline__ u32 full() const { return base + STAGES * kStageBytes + slot * 8; }
  __device__ __forceinline__ u32 empty(u32 i) const {
    return base + STAGES * kStageBytes + (STAGES + i) * 8;
  }
  __device__ __forceinline__ void next() {
    if (++slot == STAGES) {
      slot = 0;
      phase ^= 1;
    }
  }
};

/// Of all tasks' strips those that are this warp's turn.
__device__ __forceinline__ void feed(Ring ring, const TensorMap& p_map, const TensorMap& q_map,
                                     const Task* tasks, int task_count, const u32* strips,
                                     int stages) {
  const int warp = __shfl_sync(~0u, threadIdx.x / 32 % 4, 0), lane = threadIdx.x % 32;
  const bool speaks = elected();
  for (int t = blockIdx.x; t < task_count; t += gridDim.x) {
    const Task task = tasks[t];
    const int count = (task.columns - warp + kFeeding - 1) / kFeeding;
    const u32 mine = lane < count ? strips[task.strip + lane * kFeeding + warp] : 0;
    const bool row = warp < task.rows;
    for (int i = 0; i < stages; ++i, ring.next()) {
      const u32 full = ring.full();
      u32 strip = __shfl_sync(~0u, mine, 0);
      // Together: apart from the others the lane that speaks would ask for boxes once more.
      wait_for(ring.empty(ring.slot), ring.phase);
      __syncwarp();
      if (speaks) {
        arrive_expecting(full, (row ? kRowStrip : 0) + count * kColumnStrip);
        if (row)
          copy_box(ring.at() + warp * kRowStrip, p_map, task.row + warp * kHeight, i * TOKENS,
                   full);
      }
      u32 to = ring.at() + MOST_ROWS * kRowStrip + warp * kColumnStrip;
      for (int c = 0; c < count; ++c, to += kFeeding * kColumnStrip) {
        const u32 now = strip;
        strip = __shfl_sync(~0u, mine, c + 1);
        if (speaks) copy_box(to, q_map, now, i * TOKENS, full);
      }
    }
  }
}

// Warpgroup g has the row min(g, rows - 1), and TOGETHER strips of Q: the first ones, or those from
// `second` on.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    block_samples_wgmma(const __grid_constant__ TensorMap p_map,
                        const __grid_constant__ TensorMap q_map, const Task* tasks, int task_count,
                        const u32* all_places, const u32* all_strips, X* out, int tokens) {
  Ring ring{dynamic_shared(), 0, 1};  // Slots are empty to begin with.
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i, ring.next()) {
      init_barrier(ring.full(), kFeeding);
      init_barrier(ring.empty(i), kGroups * 4);
    }
    publish_barriers();
  }
  __syncthreads();
  ring = {dynamic_shared(), 0, 1};
  const int group =
      __shfl_sync(~0u, threadIdx.x / 128, 0);  // The same in all lanes, and known to be.
  const int stages = (tokens + TOKENS - 1) / TOKENS;
  if (group == kGroups) {
    give_registers<RegisterShares<kGroups>::kFeeding>();
    feed(ring, p_map, q_map, tasks, task_count, all_strips, stages);
    return;
  }
  take_registers<RegisterShares<kGroups>::kMultiplying>();
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  ring.phase = 0;
  for (int t = blockIdx.x; t < task_count; t += gridDim.x) {
    const Task task = tasks[t];
    const int row = min(group, task.rows - 1), column = group * task.second;
    if (column >= task.columns) {
      for (int i = 0; i < stages; ++i, ring.next()) {
        wait_for(ring.full(), ring.phase);
        if (lane == 0) arrive(ring.empty(ring.slot));
      }
      continue;
    }
    const int across = task.columns * kWide, mine = min(kPlaces, across - column * kWide);
    const u32 place = lane < mine
                          ? all_places[task.place + (row * kHigh + warp * 16 / ROWS) * across +
                                       column * kWide + lane]
                          : kNone;
    float sums[TOGETHER * STRIP / 2];
#pragma unroll
    for (float& sum : sums) sum = 0;
    int before = -1;
    for (int i = 0; i < stages; ++i, ring.next()) {
      wait_for(ring.full(), ring.phase);
      // Strips beyond the task's are multiplied, too, whatever lies there: sums that nobody stores.
      const u64 p = describe<kHeight * 2>(ring.at() + row * kRowStrip, kRowStrip);
      const u64 q = describe<STRIP * 2>(ring.at() + MOST_ROWS * kRowStrip + column * kColumnStrip,
                                        kColumnStrip);
      begin_products();
#pragma unroll
      for (int k = 0; k < TOKENS / 16; ++k)
        multiply(sums, p + k * (16 * kHeight * 2 / 16), q + k * (16 * STRIP * 2 / 16));
      end_products();
      wait_for_products<1>();
      if (before >= 0 && lane == 0) arrive(ring.empty(before));
      before = ring.slot;
    }
    wait_for_products<0>();
    if (before >= 0 && lane == 0) arrive(ring.empty(before));

    struct alignas(4) Two {
      X value[2];
    };
    // A warp has 16 rows, which are of one row of pieces.
#pragma unroll
    for (int j = 0; j < kPlaces; ++j) {
      const u32 to = __shfl_sync(~0u, place, j);
      if (to == kNone) continue;
      X* const block = out + static_cast<i64>((to >> 1) + warp * 16 % ROWS) * BLOCK_COLUMNS +
                       (to & 1) * 64 + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; ++n)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float* sum = &sums[(j * (COLUMNS / 8) + n) * 4 + h * 2];
          *reinterpret_cast<Two*>(block + (h * 8 + lane / 4) * BLOCK_COLUMNS +
                                  n * 8) = {{from_float<X>(sum[0]), from_float<X>(sum[1])}};
        }
    }
  }
}
