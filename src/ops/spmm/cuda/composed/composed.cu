// C = act(A·B + bias) + residual over lists of nonzeros, assembled for one configuration.
//
// A is a list of items: an item is a row, or a piece of a long row. Item i owns the vectors
// [begin[i], begin[i + 1]) of VEC nonzeros each, and, if it is one of the first `heads`, the kHead
// vectors from i · kHead on: what is loaded first is where no other load must say. `target[i]` says
// where its sums go: to a row of C, with those of its neighbours in the warp where a row is worth
// several groups, or to the row whose `piece` it is (pieces.cuh). A group of GROUP·N_LANES threads
// works on an item at a time: N_LANES share the columns of B, GROUP share the nonzeros.
//
// Constants: VALUE, INDEX, DELTA (columns.cuh), B_TYPE, STAGED_TYPE, C_TYPE; N_TILE, N_LANES,
// GROUP, VEC, UNROLL, THREADS, BLOCKS (a multiprocessor), STAGED, SWIZZLED, ANY_ORDER (pieces.cuh),
// TOKEN_MAJOR, and those of epilogue.cuh. Of the weight, where they are baked in, else 0: BAKED_K,
// BAKED_ITEMS, and ITEM_VECTORS, which all items have alike.
#include "cuda/dependent.cuh"
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"

using Value = VALUE;
using B = B_TYPE;
using StagedB = STAGED_TYPE;  // As B, or float where that saves conversions.
using C = C_TYPE;

#include "ops/spmm/cuda/composed/activations.cuh"
#include "ops/spmm/cuda/composed/columns.cuh"
#include "ops/spmm/cuda/composed/pieces.cuh"
#include "ops/spmm/cuda/composed/reduce.cuh"
#include "ops/spmm/cuda/epilogue.cuh"

static_assert(THREADS % (GROUP * N_LANES) == 0 && THREADS % 32 == 0, "groups fill a block");
static_assert(N_TILE % N_LANES == 0, "lanes share the columns evenly");

constexpr int kGroupThreads = GROUP * N_LANES;
constexpr int kSpan = kGroupThreads < 32 ? kGroupThreads : 32;  // Of a group in a warp.
constexpr int kGroupWarps = kGroupThreads < 32 ? 1 : kGroupThreads / 32;
constexpr int kUnits = THREADS / (kGroupWarps * 32);  // Warps, or groups of warps.
constexpr int kGroupsPerUnit = 32 * kGroupWarps / kGroupThreads;
// Of a target: bit 31, that this is a piece; bits 29 and 30, how many groups of the warp have parts
// of the same row (1, 2, 4, 8).
constexpr u32 kPiece = 0x80000000u;
constexpr int kJoinShift = 29;
constexpr u32 kTarget = (1u << kJoinShift) - 1;

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

/// The vectors of an item that this thread works on, GROUP apart: of its first batch, and the rest.
struct Run {
  u32 from, end, rest, rest_end;
};

constexpr u32 kHead = GROUP * UNROLL;

/// What `begin` says of an item: loaded an item ahead.
struct Rest {
  u32 begin, end;
};

__device__ __forceinline__ Rest load_rest(const u32* begin, int item, int items) {
  if (ITEM_VECTORS > 0 || item >= items) return {0, 0};
  return {begin[item], begin[item + 1]};
}

/// Begins with an item: `request(from, end)` its first batch. A head is requested whatever `rest`
/// says, which may not have come yet: hence two calls.
template <class Request>
__device__ __forceinline__ Run begin_item(int item, int items, int heads, int member,
                                          const Rest& rest, const Request& request) {
  if (item >= items) return {0, 0, 0, 0};
  const u32 index = static_cast<u32>(item);
  Run run;
  if constexpr (ITEM_VECTORS > 0) {
    run.from = index * ITEM_VECTORS + member;
    run.end = index * ITEM_VECTORS + ITEM_VECTORS;
    run.rest = run.from + kHead;
    run.rest_end = run.end;
    request(run.from, run.end);
  } else if (item < heads) {
    run.from = index * kHead + member;
    run.end = index * kHead + kHead;
    request(run.from, run.end);
    run.rest = rest.begin + member;
    run.rest_end = rest.end;
  } else {
    run.from = rest.begin + member;
    run.end = rest.end;
    request(run.from, run.end);
    run.rest = run.from + kHead;
    run.rest_end = run.end;
  }
  return run;
}

/// B is not __restrict__: the kernel ahead may still be writing it when this one starts, which the
/// non-coherent loads that the compiler would choose must not see.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    spmm_composed(const u32* __restrict__ begin, const u32* __restrict__ target,
                  const Columns* __restrict__ columns, const Pack<Value, VEC>* __restrict__ values,
                  const B* b, i64 b_stride, C* c, i64 c_stride, const float* __restrict__ bias,
                  const C* residual, i64 residual_stride, const Pieces pieces, int items_given,
                  int heads, int k_given, int n) {
  const int items = BAKED_ITEMS > 0 ? BAKED_ITEMS : items_given;
  const int k = BAKED_K > 0 ? BAKED_K : k_given;
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

  // Load: the first nonzeros are on their way while the kernel ahead ends and B is staged, as far
  // as registers allow.
  constexpr bool kKeeps = !STAGED || kPerLane * sizeof(StagedB) < 16;
  Batch batch;
  const auto load = [&](u32 from, u32 end) { batch.load(columns, values, from, end); };
  Run run =
      begin_item(item, items, heads, member, load_rest(begin, item, items), [&](u32 from, u32 end) {
        if constexpr (kKeeps) {
          load(from, end);
        } else {
          batch.prefetch(columns, values, from, end);
        }
      });
  let_next_start();
  wait_for_previous();
  if constexpr (STAGED) {
    stage_b(staged, b, b_stride, k, n0, n);
    __syncthreads();
  }

  if constexpr (!kKeeps) load(run.from, run.end);

  for (int first = 0; first < items; first += round) {
    block = gridDim.x - 1 - block;
    const int next_item = item_of(first + round, block);
    const Rest next_rest = load_rest(begin, next_item, items);

    // Multiply.
    float sums[kPerLane] = {};
    const auto multiply = [&](const auto& gather) {
      batch.multiply(sums, run.from, run.end, gather);
      for (u32 v = run.rest; v < run.rest_end; v += kHead) {
        batch.load(columns, values, v, run.rest_end);
        batch.multiply(sums, v, run.rest_end, gather);
      }
    };
    if constexpr (STAGED) {
      multiply(GatherStaged{staged, n_lane});
    } else {
      multiply(GatherGlobal{b, b_stride, n0, n, n_lane});
    }
    // They fly while this item is reduced.
    const Run next = begin_item(next_item, items, heads, member, next_rest, load);
    const u32 to = item < items ? target[item] : 0;

    // Reduce.
    Owned owned = reduce_warp<kPerLane, kSpan>(sums, lane);
    reduce_group<kPerLane, kGroupWarps>(sums, owned, sums_of_warps);
    const int joined = static_cast<int>(to >> kJoinShift & 3u);
    join_groups<kPerLane, kGroupThreads>(sums, owned, joined, lane);
    const bool first_of_joined =
        kGroupThreads >= 32 || (lane / kGroupThreads & ((1 << joined) - 1)) == 0;

    // Store.
    const bool holds = item < items;
    item = next_item;
    run = next;
    if (holds && owned.stores) {
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        if (j >= owned.count) break;
        const int column = n_lane * kPerLane + owned.first + j;
        if (to & kPiece) {
          pieces.leave(to & kTarget, column, sums[j]);
        } else if (n0 + column < n) {
          const i64 token = n0 + column;
          const i64 row = to & kTarget;
          const i64 at = TOKEN_MAJOR ? token * c_stride + row : row * c_stride + token;
          const i64 residual_at =
              TOKEN_MAJOR ? token * residual_stride + row : row * residual_stride + token;
          store_result(sums[j], c, at, bias, row, residual, residual_at);
        }
      }
    }
    // Whoever brings the last piece of a row stores it.
    const bool piece = holds && (to & kPiece) && in_unit < 32 && first_of_joined;
    if (__any_sync(0xFFFFFFFFu, piece)) {
      u32 row = 0;
      if (pieces.is_last(piece, to & kTarget, lane % kSpan == 0, lane & ~(kSpan - 1), row)) {
#pragma unroll 1
        for (int column = lane % kSpan; column < N_TILE; column += kSpan) {
          const float sum = pieces.take(to & kTarget, column);
          const i64 token = n0 + column;
          if (token >= n) continue;
          const i64 at = TOKEN_MAJOR ? token * c_stride + row : row * c_stride + token;
          const i64 residual_at =
              TOKEN_MAJOR ? token * residual_stride + row : row * residual_stride + token;
          store_result(sum, c, at, bias, row, residual, residual_at);
        }
      }
    }
  }
}
