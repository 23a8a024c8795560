// C = act(A·B + bias) + residual over lists of nonzeros that blocks and threads share evenly,
// wherever rows end: for few columns of B, and rows of any lengths.
//
// A block has rows of its own (even_pack.h), whose nonzeros are cut into segments of GROUP vectors
// of VEC nonzeros. Vector i of a block belongs to thread i % THREADS: the GROUP threads of a
// segment add up their sums by shuffles and leave them in shared memory; when all are done, eight
// threads a row add up its segments, always in the same order. So no thread waits for a long row, a
// warp reads consecutive memory, and what it reads first does not depend on any list.
//
// Constants: VALUE, INDEX, DELTA (columns.cuh), B_TYPE, STAGED_TYPE, C_TYPE; N_TILE, GROUP, VEC,
// UNROLL, THREADS, BLOCKS (a multiprocessor), SWIZZLED, TOKEN_MAJOR, and those of epilogue.cuh.
#include "cuda/dependent.cuh"
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"

using Value = VALUE;
using B = B_TYPE;
using StagedB = STAGED_TYPE;  // As B, or float where that saves conversions.
using C = C_TYPE;
#define N_LANES 1

#include "ops/spmm/cuda/composed/activations.cuh"
#include "ops/spmm/cuda/composed/columns.cuh"
#include "ops/spmm/cuda/composed/reduce.cuh"
#include "ops/spmm/cuda/epilogue.cuh"

static_assert(GROUP <= 32 && THREADS % 32 == 0, "a segment lies in a warp");
constexpr int kRowThreads = 8;  // That add up a row's segments.
static_assert(N_TILE <= kRowThreads, "each stores a column");
constexpr u32 kNoRow = 0x80000000u;  // Of a target.

/// A vector as it is loaded: kept as words, since halves that are taken apart when they arrive, not
/// when they are used, would have the warp wait for every load.
struct Loaded {
  Pack<u32, sizeof(Columns) / 4> columns;
  Pack<u32, VEC * sizeof(Value) / 4> values;
};

/// Of a row of this block: where it lies in C, and its segments.
struct Row {
  u32 target, begin, end;
};

/// `vectors`: of a block, a multiple of 32; `items`: of a block, its rows and others without.
/// Shared memory: B, sums of segments, rows. B is not __restrict__: the kernel ahead may still be
/// writing it when this one starts.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    spmm_even(const u32* __restrict__ begin, const u32* __restrict__ target,
              const Columns* __restrict__ columns, const Pack<Value, VEC>* __restrict__ values,
              const B* b, i64 b_stride, C* c, i64 c_stride, const float* __restrict__ bias,
              const C* residual, i64 residual_stride, u32 vectors, int items, int k, int n) {
  extern __shared__ __align__(16) char shared[];
  StagedB* const staged = reinterpret_cast<StagedB*>(shared);
  constexpr int kPlaces = 8;  // The swizzle moves rows within eight.
  const int staged_bytes = (k + kPlaces - 1) / kPlaces * kPlaces * N_TILE * sizeof(StagedB);
  float* const sums_of = reinterpret_cast<float*>(shared + staged_bytes);
  Row* const rows = reinterpret_cast<Row*>(sums_of + vectors / GROUP * N_TILE);
  const int n0 = blockIdx.y * N_TILE;
  const int lane = threadIdx.x % 32;

  // Load: the first nonzeros are on their way while the kernel ahead ends and B is staged.
  const u32 base = blockIdx.x * vectors;
  columns += base;
  values += base;
  Loaded loaded[UNROLL];
  const auto load = [&](int u, u32 at) {
    loaded[u].columns =
        load_once(reinterpret_cast<const Pack<u32, sizeof(Columns) / 4>*>(columns + at));
    loaded[u].values =
        load_once(reinterpret_cast<const Pack<u32, VEC * sizeof(Value) / 4>*>(values + at));
  };
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) {
    const u32 at = threadIdx.x + u * THREADS;
    if (at < vectors) load(u, at);
  }
  begin += blockIdx.x * items;
  target += blockIdx.x * items;
  const auto row_of = [&](int i) {
    return Row{target[i], (begin[i] - base) / GROUP, (begin[i + 1] - base) / GROUP};
  };
  const int count = items - 1;
  Row row_here = {};  // Nobody waits for it.
  if (threadIdx.x < count) row_here = row_of(threadIdx.x);
  let_next_start();
  wait_for_previous();
  stage_b(staged, b, b_stride, k, n0, n);
  if (threadIdx.x < count) rows[threadIdx.x] = row_here;
  for (int i = threadIdx.x + THREADS; i < count; i += THREADS) rows[i] = row_of(i);
  __syncthreads();

  // Multiply, and reduce within a segment.
  const GatherStaged gather{staged, 0};
#pragma unroll 1
  for (u32 round = threadIdx.x; round < vectors; round += UNROLL * THREADS) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const u32 at = round + u * THREADS;
      if (at >= vectors) break;  // All of a warp.
      float sums[kPerLane] = {};
      u32 place[VEC];
      reinterpret_cast<const Columns&>(loaded[u].columns).places(place);
      const auto& value = reinterpret_cast<const Pack<Value, VEC>&>(loaded[u].values);
#pragma unroll
      for (int i = 0; i < VEC; ++i) {
        float x[kPerLane];
        gather(place[i], x);
        const float a = to_float(value.value[i]);
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) sums[j] = fmaf(a, x[j], sums[j]);
      }
      if (at + UNROLL * THREADS < vectors) load(u, at + UNROLL * THREADS);
      const Owned owned = reduce_warp<kPerLane, GROUP>(sums, lane);
      if (owned.stores) {
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) {
          if (j >= owned.count) break;
          sums_of[at / GROUP * N_TILE + owned.first + j] = sums[j];
        }
      }
    }
  }
  __syncthreads();

  // Reduce a row's segments, and store.
  const int member = threadIdx.x % kRowThreads;
  for (int from = threadIdx.x / 32 * (32 / kRowThreads); from < count;
       from += THREADS / kRowThreads) {
    const int i = from + lane / kRowThreads;
    Row row = {kNoRow, 0, 0};
    if (i < count) row = rows[i];
    float sums[N_TILE] = {};
    for (u32 s = row.begin + member; s < row.end; s += kRowThreads) {
#pragma unroll
      for (int j = 0; j < N_TILE; ++j) sums[j] += sums_of[s * N_TILE + j];
    }
#pragma unroll
    for (int j = 0; j < N_TILE; ++j) {
#pragma unroll
      for (int distance = kRowThreads / 2; distance > 0; distance /= 2)
        sums[j] += __shfl_xor_sync(0xFFFFFFFFu, sums[j], distance);
    }
    if (row.target != kNoRow) {
#pragma unroll
      for (int j = 0; j < N_TILE; ++j) {
        const i64 token = n0 + j;
        if (member != j || token >= n) continue;
        const i64 at = TOKEN_MAJOR ? token * c_stride + row.target : row.target * c_stride + token;
        const i64 residual_at = TOKEN_MAJOR ? token * residual_stride + row.target
                                            : row.target * residual_stride + token;
        store_result(sums[j], c, at, bias, row.target, residual, residual_at);
      }
    }
  }
}
