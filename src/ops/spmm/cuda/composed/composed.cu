// C = act(A·B + bias) + residual over lists of nonzeros, assembled for one configuration.
//
// A is a list of items: an item is a row, or a piece of a long row. Item i owns the vectors
// [begin[i], begin[i + 1]) of VEC nonzeros each, and `target[i]` says where its sums go: to a row
// of C, or (bit 31 set) to a slot of `partials` that spmm_combine adds up in a fixed order. A group
// of GROUP·N_LANES threads works on an item at a time: N_LANES share the columns of B, GROUP share
// the nonzeros.
//
// Constants: VALUE, INDEX, DELTA (columns.cuh), B_TYPE, STAGED_TYPE, C_TYPE; N_TILE, N_LANES,
// GROUP, VEC, UNROLL, THREADS, BLOCKS (a multiprocessor), STAGED, SWIZZLED, TOKEN_MAJOR, and those
// of epilogue.cuh.
#include "cuda/dependent.cuh"
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"

using Value = VALUE;
using B = B_TYPE;
using StagedB = STAGED_TYPE;  // As B, or float where that saves conversions.
using C = C_TYPE;

#include "ops/spmm/cuda/composed/activations.cuh"
#include "ops/spmm/cuda/composed/columns.cuh"
#include "ops/spmm/cuda/composed/reduce.cuh"
#include "ops/spmm/cuda/epilogue.cuh"

static_assert(THREADS % (GROUP * N_LANES) == 0 && THREADS % 32 == 0, "groups fill a block");
static_assert(N_TILE % N_LANES == 0, "lanes share the columns evenly");

constexpr int kGroupThreads = GROUP * N_LANES;
constexpr int kSpan = kGroupThreads < 32 ? kGroupThreads : 32;  // Of a group in a warp.
constexpr int kGroupWarps = kGroupThreads < 32 ? 1 : kGroupThreads / 32;
constexpr int kUnits = THREADS / (kGroupWarps * 32);  // Warps, or groups of warps.
constexpr int kGroupsPerUnit = 32 * kGroupWarps / kGroupThreads;
constexpr u32 kPartial = 0x80000000u;

/// UNROLL vectors of nonzeros, GROUP apart, whose loads are in flight together.
struct Batch {
  Columns column[UNROLL];
  Pack<Value, VEC> value[UNROLL];

  __device__ __forceinline__ void load(const Columns* columns, const Pack<Value, VEC>* values,
                                       u32 from, u32 end) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      if (from + u * GROUP < end) {
        column[u] = load_columns(columns + from + u * GROUP);
        value[u] = load_once(values + from + u * GROUP);
      }
    }
  }

  /// Asks for the same to come to L2.
  __device__ __forceinline__ static void prefetch(const Columns* columns,
                                                  const Pack<Value, VEC>* values, u32 from,
                                                  u32 end) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      if (from + u * GROUP < end) {
        prefetch_l2(columns + from + u * GROUP);
        prefetch_l2(values + from + u * GROUP);
      }
    }
  }

  template <class Gather>
  __device__ __forceinline__ void multiply(float (&sums)[kPerLane], u32 from, u32 end,
                                           const Gather& gather) const {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      if (from + u * GROUP < end) {
        u32 place[VEC];
        column[u].places(place);
#pragma unroll
        for (int i = 0; i < VEC; ++i) {
          float x[kPerLane];
          gather(place[i], x);
          const float a = to_float(value[u].value[i]);
#pragma unroll
          for (int j = 0; j < kPerLane; ++j) sums[j] = fmaf(a, x[j], sums[j]);
          // Four gathers of 16 bytes ahead are enough, and all that 64 registers hold.
          if constexpr (kPerLane >= 8) {
            if (i % 4 == 3) asm volatile("" ::: "memory");
          }
        }
      }
    }
  }
};

/// The vectors of an item that this thread works on, GROUP apart from `from` on, and where their
/// sum goes.
struct Run {
  u32 from, end, target;
};

__device__ __forceinline__ Run load_run(const u32* begin, int item, int items, int member) {
  if (item >= items) return {0, 0};
  return {begin[item] + member, begin[item + 1]};
}

/// B is not __restrict__: the kernel ahead may still be writing it when this one starts, which the
/// non-coherent loads that the compiler would choose must not see.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    spmm_composed(const u32* __restrict__ begin, const u32* __restrict__ target,
                  const Columns* __restrict__ columns, const Pack<Value, VEC>* __restrict__ values,
                  const B* b, i64 b_stride, C* c, i64 c_stride, const float* __restrict__ bias,
                  const C* residual, i64 residual_stride, float* partials, int items, int k,
                  int n) {
  extern __shared__ __align__(16) char shared[];
  float* const sums_of_warps = reinterpret_cast<float*>(shared);
  StagedB* const staged = reinterpret_cast<StagedB*>(
      shared + (kGroupWarps > 1 ? THREADS * kPerLane * sizeof(float) : 0));
  const int n0 = blockIdx.y * N_TILE;
  const int lane = threadIdx.x % 32;
  const int unit = threadIdx.x / (32 * kGroupWarps);
  const int in_unit = threadIdx.x % (32 * kGroupWarps);
  const int group = in_unit / kGroupThreads;
  const int n_lane = in_unit % N_LANES;
  const int member = in_unit % kGroupThreads / N_LANES;

  // Consecutive items, which are of like length, go to the same warp; warps of consecutive items to
  // different blocks, to and fro.
  const int round = gridDim.x * kUnits * kGroupsPerUnit;
  const auto item_of = [&](int first, int block) {
    return first + (unit * static_cast<int>(gridDim.x) + block) * kGroupsPerUnit + group;
  };
  int block = blockIdx.x;
  int item = item_of(0, block);
  Run run = load_run(begin, item, items, member);

  // Load: the first nonzeros are on their way while the kernel ahead ends and B is staged, as far
  // as registers allow.
  constexpr bool kKeeps = !STAGED || kPerLane * sizeof(StagedB) < 16;
  Batch batch;
  if constexpr (kKeeps) {
    batch.load(columns, values, run.from, run.end);
  } else {
    batch.prefetch(columns, values, run.from, run.end);
  }
  let_next_start();
  wait_for_previous();
  if constexpr (STAGED) {
    stage_b(staged, b, b_stride, k, n0, n);
    __syncthreads();
  }
  if constexpr (!kKeeps) batch.load(columns, values, run.from, run.end);

  for (int first = 0; first < items; first += round) {
    block = gridDim.x - 1 - block;
    const int next_item = item_of(first + round, block);
    const Run next = load_run(begin, next_item, items, member);

    // Multiply.
    float sums[kPerLane] = {};
    const auto multiply = [&](const auto& gather) {
      batch.multiply(sums, run.from, run.end, gather);
      for (u32 v = run.from + GROUP * UNROLL; v < run.end; v += GROUP * UNROLL) {
        batch.load(columns, values, v, run.end);
        batch.multiply(sums, v, run.end, gather);
      }
    };
    if constexpr (STAGED) {
      multiply(GatherStaged{staged, n_lane});
    } else {
      multiply(GatherGlobal{b, b_stride, n0, n, n_lane});
    }
    // Both fly while this item is reduced.
    batch.load(columns, values, next.from, next.end);
    const u32 to = item < items ? target[item] : 0;

    // Reduce.
    Owned owned = reduce_warp<kPerLane, kSpan>(sums, lane);
    reduce_group<kPerLane, kGroupWarps>(sums, owned, sums_of_warps);

    // Store.
    const bool stores = item < items && owned.stores;
    item = next_item;
    run = next;
    if (!stores) continue;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      if (j >= owned.count) break;
      const int column = n_lane * kPerLane + owned.first + j;
      if (to & kPartial) {
        partials[static_cast<i64>(to & ~kPartial) * gridDim.y * N_TILE + n0 + column] = sums[j];
      } else if (n0 + column < n) {
        const i64 token = n0 + column;
        const i64 row = to;
        const i64 at = TOKEN_MAJOR ? token * c_stride + row : row * c_stride + token;
        const i64 residual_at =
            TOKEN_MAJOR ? token * residual_stride + row : row * residual_stride + token;
        store_result(sums[j], c, at, bias, row, residual, residual_at);
      }
    }
  }
}

/// The sums of rows that were cut: row rows[i] has the slots [slots[i], slots[i + 1]).
extern "C" __global__ void spmm_combine(const u32* __restrict__ rows, const u32* __restrict__ slots,
                                        const float* __restrict__ partials, int width, C* c,
                                        i64 c_stride, const float* __restrict__ bias,
                                        const C* residual, i64 residual_stride, int n) {
  const i64 row = rows[blockIdx.x];
  for (int token = threadIdx.x; token < n; token += blockDim.x) {
    float sum = 0;
    for (u32 slot = slots[blockIdx.x]; slot < slots[blockIdx.x + 1]; ++slot)
      sum += partials[static_cast<i64>(slot) * width + token];
    const i64 at = TOKEN_MAJOR ? token * c_stride + row : row * c_stride + token;
    const i64 residual_at =
        TOKEN_MAJOR ? token * residual_stride + row : row * residual_stride + token;
    store_result(sum, c, at, bias, row, residual, residual_at);
  }
}
