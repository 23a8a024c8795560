// C = act(A·B + bias) + residual for a very sparse A: activations gathered by
// ldmatrix, multiplied by tensor cores, sm_90 on.
//
// B lies in shared memory, eight tokens of a column in 16 bytes. A strip is 16 rows; in a step each
// of its rows has one nonzero, at whatever column. One ldmatrix.x4 gathers the columns of two
// steps, 32 of them, from addresses of our choosing, as two B operands of mma.m16n8k16; A holds the
// nonzero of row i at column κ(i) of the 16 gathered ones and is zero elsewhere. So 32 nonzeros
// cost an ldmatrix and two mma for eight tokens, and no multiplication of B is ever converted to
// f32. The packer orders the nonzeros of a row so that the eight columns of a matrix lie in
// different banks. κ permutes such that each lane holds exactly one of the 32 nonzeros:
//   value, low half of a word:   lane (g, t) = (lane / 4, lane % 4), e = t ^ (g / 2):
//                                row g + 8 (e % 2) of step e / 2
//   column, high half:           of the row of matrix that the lane addresses, q = lane / 8:
//                                row 8 (q % 2) + (lane % 8 ^ 2q) of step q / 2
// Eight steps make a chunk of 512 bytes, 16 a lane; with delta columns, 16 steps make one of 768
// or 896 (chunk.cuh). Each lane copies its own share into a slot of its own in shared memory, with
// DEPTH slots a warp: loads into registers would share one of the six scoreboards, and the oldest
// would wait for the newest.
//
// A block owns groups of 16 rows and a range of K. Its strips are as many or more: a long row is
// cut into runs that lie in several, so that strips are even. Its warps take equal parts of its
// chunks, wherever strips end. Sums of a strip's pieces, then those of a row's runs are added up in
// shared memory, with SPLIT blocks of a cluster also across their shared memories, always in the
// same order. The weight is constant, so its first chunks are fetched before the kernel ahead in
// the stream has ended.
//
// An activation that is not finite makes its token NaN in all rows of the strips that gather it.
//
// Constants: TOKEN_TILES (of 8), WARPS, DEPTH, SPLIT, BF16, C_TYPE and those of chunk.cuh and
// epilogue.cuh.
#include "ops/spmm/cuda/epilogue.cuh"
#include "ops/spmm/cuda/gather/activations.cuh"
#include "ops/spmm/cuda/gather/chunk.cuh"

using C = C_TYPE;

/// Two B operands of 16 gathered columns and 8 tokens.
__device__ __forceinline__ void gather(u32 address, u32 (&b)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address));
}

/// A is zero but for its first and last register: rows 0-7 × columns 0-7, rows 8-15 × columns 8-15.
__device__ __forceinline__ void multiply(float (&c)[4], u32 first, u32 last, u32 b0, u32 b1) {
#if BF16
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%5,%6}, {%7,%8}, "
      "{%0,%1,%2,%3};"
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%5,%6}, {%7,%8}, "
      "{%0,%1,%2,%3};"
#endif
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(first), "r"(0), "r"(last), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// `strips`: of a block; `tile_groups`: of a tile, at most `strips`. `table`: [block][strip].
// `places`: [block], for each of the strips' 16 runs the place of its sum: of a row's first run its
// place in the tile, of others extra ones behind these, one after the other; then of each extra
// place its row's, kNoRow without a run. `groups`: first rows of a tile's groups of 16, -1 for
// none. `columns`: of a block, a multiple of 8. blockIdx.y: a tile of tokens.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    spmm_gather(const u8* stream, const GatherWarp* warps, const GatherStrip* table,
                const u16* places, const i32* groups, int strips, int tile_groups, const u16* b,
                i64 b_stride, C* c, i64 c_stride, const float* bias, const C* residual,
                i64 residual_stride, int m, int k, int n, int columns) {
  // Activations, later the sums of all rows; chunks; sums of pieces; tables.
  extern __shared__ __align__(1024) u8 shared[];
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
  const int lane = threadIdx.x % 32;
  const int rows = tile_groups * 16;
  const int extras = strips * 16 - rows;
  const u32 plane_bytes = columns * 16;
  const int stride =
      strips * 16 + 4;  // Of sums: those of tokens that a warp writes at once in other banks.
  const u32 ring_at = max(plane_bytes, stride * 32) * TOKEN_TILES;
  float4* slots = reinterpret_cast<float4*>(shared + ring_at + WARPS * DEPTH * kChunkBytes);
  GatherStrip* table_here =
      reinterpret_cast<GatherStrip*>(slots + (strips + WARPS) * (TOKEN_TILES * 32));
  i32* groups_here = reinterpret_cast<i32*>(table_here + strips);
  u16* places_here = reinterpret_cast<u16*>(groups_here + tile_groups);
  const u32 base = static_cast<u32>(__cvta_generic_to_shared(shared));

  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  const GatherWarp work = warps[blockIdx.x * WARPS + warp];
  const int chunks = work.chunks;
  // A lane reads only what it has copied itself.
  const u8* next = stream + work.first * kChunkBytes + lane * 16;
  const u32 ring = base + ring_at + warp * (DEPTH * kChunkBytes) + lane * 16;
  // Where delta columns lie, seen from the lane's values.
  const int columns_after = kColumnsAt - lane * 8, more_after = kMoreAt - lane * 12;
  const u32 columns_ring = ring + columns_after, more_ring = ring + more_after;
  int fetched = 0;
  u32 fetch_at = 0;
  const auto fetch = [&] {
    if (fetched < chunks) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(ring + fetch_at), "l"(next)
                   : "memory");
      if constexpr (DELTA > 0)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(columns_ring + fetch_at),
                     "l"(next + columns_after)
                     : "memory");
      if constexpr (DELTA == 11)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(more_ring + fetch_at),
                     "l"(next + more_after)
                     : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    ++fetched;
    next += kChunkBytes;
    fetch_at = fetch_at == (DEPTH - 1) * kChunkBytes ? 0 : fetch_at + kChunkBytes;
  };
#pragma unroll
  for (int i = 0; i < DEPTH - 1; ++i) fetch();
  for (int i = threadIdx.x; i < strips; i += kThreads) {
    table_here[i] = table[blockIdx.x * strips + i];
    if (i < tile_groups) groups_here[i] = groups[blockIdx.x / SPLIT * tile_groups + i];
  }
  const int all_places = strips * 16 + extras;
  for (int i = threadIdx.x; i < all_places; i += kThreads)
    places_here[i] = places[static_cast<i64>(blockIdx.x) * all_places + i];
  asm volatile("griddepcontrol.wait;" ::
                   : "memory");  // What follows may read and write activations.

  const int rank = SPLIT > 1 ? blockIdx.x % SPLIT : 0;
  const int first_token = blockIdx.y * (8 * TOKEN_TILES);
  n = min(n - first_token, 8 * TOKEN_TILES);
  stage_activations(shared, b + first_token * b_stride, b_stride, n, rank * columns, columns, k);
  __syncthreads();

  // The half of a register that a lane's value goes to, or zero; of words with two values, the
  // value of the lower half, then that of the upper.
  u32 selectors[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const bool here = (lane % 4 ^ lane / 8) == e;
      const u32 value = half == 0 ? 0x10 : 0x32;
      selectors[half][e] = !here ? 0x4444 : lane / 4 % 2 != 0 ? value << 8 | 0x44 : 0x4400 | value;
    }
  float sums[2][TOKEN_TILES][4] = {};
  u32 strip = work.strip, left = work.left, slot = work.slot;
  const auto put_away = [&] {
#pragma unroll
    for (int i = 0; i < TOKEN_TILES; ++i) {
      slots[(slot * TOKEN_TILES + i) * 32 + lane] =
          make_float4(sums[0][i][0] + sums[1][i][0], sums[0][i][1] + sums[1][i][1],
                      sums[0][i][2] + sums[1][i][2], sums[0][i][3] + sums[1][i][3]);
#pragma unroll
      for (int r = 0; r < 4; ++r) sums[0][i][r] = sums[1][i][r] = 0;
    }
    ++slot;
  };
  u32 read_at = 0;
#pragma unroll 1
  for (int i = 0; i < chunks; ++i) {
    asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 2) : "memory");
    u32 words[4];
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(ring + read_at)
                 : "memory");
    LaneColumns steps = {};
    if constexpr (DELTA > 0)
      asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];"
                   : "=r"(steps.low), "=r"(steps.high)
                   : "r"(columns_ring + read_at)
                   : "memory");
    if constexpr (DELTA == 11)
      asm volatile("ld.shared.u32 %0, [%1];"
                   : "=r"(steps.more)
                   : "r"(more_ring + read_at)
                   : "memory");
    read_at = read_at == (DEPTH - 1) * kChunkBytes ? 0 : read_at + kChunkBytes;
    fetch();  // Where the chunk before this one was.
    u32 address = base;
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      u32 a[4];
      if constexpr (DELTA > 0) {
        address += (p == 0 ? first_column(steps) : column_step(steps, p)) * 16;
#pragma unroll
        for (int e = 0; e < 4; ++e) a[e] = permute(words[p / 2], 0, selectors[p % 2][e]);
      } else {
        address = base + (words[p] >> 16) * 16;
#pragma unroll
        for (int e = 0; e < 4; ++e) a[e] = permute(words[p], 0, selectors[0][e]);
      }
#pragma unroll
      for (int t = 0; t < TOKEN_TILES; ++t) {
        u32 x[4];
        gather(address + t * plane_bytes, x);
        multiply(sums[0][t], a[0], a[1], x[0], x[1]);
        multiply(sums[1][t], a[2], a[3], x[2], x[3]);
      }
    }
    if (--left == 0) {
      put_away();
      do {
        ++strip;
      } while (strip < strips && table_here[strip].chunks == 0);
      left = strip < strips ? table_here[strip].chunks : ~0u;
    }
  }
  if (chunks > 0 && strip < strips && left != table_here[strip].chunks) put_away();
  __syncthreads();

  // Sums of a strip's pieces, to the places of its runs: [token][place].
  float* totals = reinterpret_cast<float*>(shared);
  for (int i = threadIdx.x; i < strips * TOKEN_TILES * 32; i += kThreads) {
    const int in_lane = i % 32, tile = i / 32 % TOKEN_TILES, s = i / 32 / TOKEN_TILES;
    const GatherStrip of = table_here[s];
    float4 sum = make_float4(0, 0, 0, 0);
    for (int j = 0; j < of.slots; ++j) {
      const float4 v = slots[((of.first_slot + j) * TOKEN_TILES + tile) * 32 + in_lane];
      sum.x += v.x;
      sum.y += v.y;
      sum.z += v.z;
      sum.w += v.w;
    }
    const int token = tile * 8 + in_lane % 4 * 2;
    const int low = places_here[s * 16 + in_lane / 4];
    const int high = places_here[s * 16 + in_lane / 4 + 8];
    totals[token * stride + low] = sum.x;
    totals[(token + 1) * stride + low] = sum.y;
    totals[token * stride + high] = sum.z;
    totals[(token + 1) * stride + high] = sum.w;
  }
  // Runs that a row has beside its first: the thread of the first of them adds all.
  if (extras > 0) {
    __syncthreads();
    const u16* rows_here = places_here + strips * 16;
    constexpr int kTokens = 8 * TOKEN_TILES, kAtOnce = 4;
    const int token = threadIdx.x % kTokens;
    float* of_token = totals + token * stride;
    for (int first = threadIdx.x / kTokens; first < extras; first += kThreads / kTokens) {
      const u32 row = rows_here[first];
      if (row == kNoRow || (first > 0 && rows_here[first - 1] == row)) continue;
      float sum = of_token[row];
      bool more = true;
      for (int from = first; more; from += kAtOnce) {
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int j = min(from + i, extras - 1);
          const float run = of_token[rows + j];
          more = more && from + i < extras && rows_here[j] == row;
          sum += more ? run : 0.0f;
        }
      }
      of_token[row] = sum;
    }
  }
  // Eight consecutive rows of a token at a time.
  constexpr int kVector = 8;
  const int vectors = rows / kVector;
  const bool aligned = ((reinterpret_cast<u64>(c) | c_stride * sizeof(C)) & 15) == 0;
  const auto place = [&](int i) {
    const int token = i / vectors;
    return token * stride + (i - token * vectors) * kVector;
  };
  const auto store = [&](int i, const float(&sums)[kVector]) {
    const int token = i / vectors, at = (i - token * vectors) * kVector;
    const i32 group = groups_here[at / 16];
    const i64 row = group + at % 16;
    if (group < 0 || row >= m) return;
    C* to = c + (first_token + token) * c_stride + row;
    const C* from = residual + (first_token + token) * residual_stride + row;
    if (aligned && row + kVector <= m) {
      union alignas(16) {
        C values[kVector];
        uint4 words[kVector * sizeof(C) / 16];
      } eight;
#pragma unroll
      for (int j = 0; j < kVector; ++j)
        store_result(sums[j], eight.values, j, bias, row + j, from, j);
#pragma unroll
      for (int w = 0; w < kVector * sizeof(C) / 16; ++w)
        reinterpret_cast<uint4*>(to)[w] = eight.words[w];
    } else {
      for (int j = 0; j < kVector && row + j < m; ++j)
        store_result(sums[j], to, j, bias, row + j, from, j);
    }
  };
  if constexpr (SPLIT == 1) {
    __syncthreads();
    for (int i = threadIdx.x; i < n * vectors; i += kThreads) {
      float sums[kVector];
#pragma unroll
      for (int j = 0; j < kVector; j += 4) {
        const float4 four = *reinterpret_cast<const float4*>(totals + place(i) + j);
        sums[j] = four.x, sums[j + 1] = four.y, sums[j + 2] = four.z, sums[j + 3] = four.w;
      }
      store(i, sums);
    }
  } else {
    cluster_barrier();
    const int share = (n * vectors + SPLIT - 1) / SPLIT;
    const int end = min(n * vectors, (rank + 1) * share);
    for (int i = rank * share + threadIdx.x; i < end; i += kThreads) {
      float sums[kVector] = {};
#pragma unroll
      for (int r = 0; r < SPLIT; ++r) {
        u32 there;
        asm("mapa.shared::cluster.u32 %0, %1, %2;"
            : "=r"(there)
            : "r"(base + place(i) * 4), "r"(r));
#pragma unroll
        for (int j = 0; j < kVector; j += 4) {
          float4 four;
          asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
                       : "=f"(four.x), "=f"(four.y), "=f"(four.z), "=f"(four.w)
                       : "r"(there + j * 4));
          sums[j] += four.x, sums[j + 1] += four.y, sums[j + 2] += four.z, sums[j + 3] += four.w;
        }
      }
      store(i, sums);
    }
    cluster_barrier();  // Others still read this block's sums.
  }
}
