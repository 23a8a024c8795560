// C = act(A·B + bias) + residual for up to 128 tokens: a bitmap weight decoded straight into the A
// registers of wgmma, sm_90a only.
//
// The lane format (lane.cu, lane_pack.h), with what each warp decodes the same but for the order of
// columns: lane (g, t) has columns 2t, 2t+1, 2t+8, 2t+9 of a block of 16. Four warps that follow
// each other are a warpgroup: strip s of each makes a tile of 64 rows, and wgmma.m64nNk16 reads the
// activations of a block once for all four, from shared memory, while the next block is decoded. A
// lane keeps TOKENS / 2 sums a strip.
//
// Activations arrive a stage at a time, [token][64 or 128 bytes] with the hardware's swizzle, in a
// ring of SLOTS slots for each group of warps along K; the tensor copy engine brings them.
// Half-columns swap every SWAP_BLOCKS blocks of 16 columns, so that warps of few strips have as
// many positions between two swaps as those of many.
//
// Sums of warps along K, and of the SPLIT blocks of a cluster, are added in shared memory, always
// in the same order.
//
// Constants: STRIPS, TOKENS, ROW_GROUPS (of four warps), K_GROUPS, BLOCKS (2 or 4), SWAP_BLOCKS,
// WRAP, SLOTS, SPLIT, BF16, C_TYPE and those of epilogue.cuh.
#include "ops/spmm/cuda/decode/lane.cuh"
#include "ops/spmm/cuda/epilogue.cuh"

using C = C_TYPE;

constexpr int kRowWarps = 4 * ROW_GROUPS;
constexpr int kWarps = kRowWarps * K_GROUPS;  // That decode.
constexpr int kThreads = kWarps * 32;
constexpr int kAhead = SLOTS - 2;                 // Stages whose activations are on their way.
constexpr int kSwaps = BLOCKS / SWAP_BLOCKS;      // A stage.
constexpr int kFragments = STRIPS * SWAP_BLOCKS;  // Between swaps.
constexpr int kWeightSlots = 2;                   // Of stages: decoded, in flight.
constexpr int kMirror = 4 * WRAP;                 // Rows behind the ring's end.
constexpr int kMaskBytes = kFragments * 32;       // Between swaps.
constexpr int kSlotBytes = kHeaderBytes + kSwaps * kMaskBytes;
constexpr int kTokenBytes = 32 * BLOCKS;  // Of activations, a stage.
constexpr int kTileBytes = TOKENS * kTokenBytes;
constexpr int kSumBytes = 80;  // Of a strip and token: 16 sums and a gap, against
                               // conflicts of banks.
constexpr int kBarriers = (kWarps * kWeightSlots + 2 * K_GROUPS * SLOTS) * 8;
static_assert(SLOTS >= 3, "one in use, one given back late, one on its way");
static_assert(kFragments >= 2, "slots are given back two fragments late");
static_assert(BLOCKS == 2 || BLOCKS == 4, "a token's activations are as wide as a swizzle");
static_assert(TOKENS % 8 == 0 && TOKENS <= 256, "what wgmma multiplies");

constexpr int kAccumulators = TOKENS / 2;  // Of a lane and strip.
// Fragments of a whole stage are one sequence where they are few enough to unroll: no swap empties
// the pipeline. They are multiplied in groups, as large as registers allow.
constexpr bool kThrough = STRIPS * BLOCKS <= 16;
constexpr int kSequence = kThrough ? STRIPS * BLOCKS : kFragments;
constexpr int kRegisters = kThreads > 384 ? 128 : kThreads > 256 ? 168 : 255;
constexpr bool group_fits(int group) {
  return kSequence % group == 0 && STRIPS * kAccumulators + 4 * group + 32 <= kRegisters;
}
constexpr int kGroup = group_fits(8) ? 8 : group_fits(4) ? 4 : group_fits(2) ? 2 : 1;

#if BF16
#define RAREFY_WGMMA_TYPES "f32.bf16.bf16"
#else
#define RAREFY_WGMMA_TYPES "f32.f16.f16"
#endif
#define RAREFY_S8(a, b, c, d, e, f, g, h) \
  "%" #a ",%" #b ",%" #c ",%" #d ",%" #e ",%" #f ",%" #g ",%" #h
#define RAREFY_R4(i) "+f"(c[i]), "+f"(c[(i) + 1]), "+f"(c[(i) + 2]), "+f"(c[(i) + 3])
#define RAREFY_R16(i) RAREFY_R4(i), RAREFY_R4((i) + 4), RAREFY_R4((i) + 8), RAREFY_R4((i) + 12)
#define RAREFY_WGMMA(n, sums, a, b, c, d, desc)                                                \
  "wgmma.mma_async.sync.aligned.m64n" n "k16." RAREFY_WGMMA_TYPES " {" sums "}, {%" #a ",%" #b \
  ",%" #c ",%" #d "}, %" #desc ", 1, 1, 1, 0;"
#define RAREFY_S16 RAREFY_S8(0, 1, 2, 3, 4, 5, 6, 7) "," RAREFY_S8(8, 9, 10, 11, 12, 13, 14, 15)
#define RAREFY_S32 \
  RAREFY_S16       \
  "," RAREFY_S8(16, 17, 18, 19, 20, 21, 22, 23) "," RAREFY_S8(24, 25, 26, 27, 28, 29, 30, 31)
#define RAREFY_S64                                                                                \
  RAREFY_S32 "," RAREFY_S8(32, 33, 34, 35, 36, 37, 38, 39) "," RAREFY_S8(                         \
      40, 41, 42, 43, 44, 45, 46, 47) "," RAREFY_S8(48, 49, 50, 51, 52, 53, 54,                   \
                                                    55) "," RAREFY_S8(56, 57, 58, 59, 60, 61, 62, \
                                                                      63)

/// One of the products between begin_products and end_products: sums += a · b of a warpgroup; `b`
/// describes activations in shared memory. Until wait_for_products, neither a nor sums may be
/// touched.
__device__ __forceinline__ void multiply(float (&c)[kAccumulators], const u32 (&a)[4], u64 b) {
#define RAREFY_A "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
#if TOKENS == 8
  asm volatile(RAREFY_WGMMA("8", "%0,%1,%2,%3", 4, 5, 6, 7, 8) : RAREFY_R4(0) : RAREFY_A);
#elif TOKENS == 16
  asm volatile(RAREFY_WGMMA("16", RAREFY_S8(0, 1, 2, 3, 4, 5, 6, 7), 8, 9, 10, 11, 12)
               : RAREFY_R4(0), RAREFY_R4(4)
               : RAREFY_A);
#elif TOKENS == 32
  asm volatile(RAREFY_WGMMA("32", RAREFY_S16, 16, 17, 18, 19, 20) : RAREFY_R16(0) : RAREFY_A);
#elif TOKENS == 64
  asm volatile(RAREFY_WGMMA("64", RAREFY_S32, 32, 33, 34, 35, 36)
               : RAREFY_R16(0), RAREFY_R16(16)
               : RAREFY_A);
#elif TOKENS == 128
  asm volatile(RAREFY_WGMMA("128", RAREFY_S64, 64, 65, 66, 67, 68)
               : RAREFY_R16(0), RAREFY_R16(16), RAREFY_R16(32), RAREFY_R16(48)
               : RAREFY_A);
#else
#error "TOKENS: 8, 16, 32, 64 or 128"
#endif
}

__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

/// A tile of activations as wgmma reads it: rows of 128 or 64 bytes, swizzled, in groups of eight.
__device__ __forceinline__ u64 describe(u32 tile) {
  constexpr u64 kSwizzle = kTokenBytes == 128 ? 1 : 2;
  return kSwizzle << 62 | u64{8 * kTokenBytes >> 4} << 32 | u64{1} << 16 | (tile & 0x3ffff) >> 4;
}

/// Where the hardware's swizzle puts a piece of 16 bytes of a token.
__device__ __forceinline__ u32 swizzled(int token, int piece) {
  return token * kTokenBytes +
         ((kTokenBytes == 128 ? piece ^ token % 8 : piece ^ token / 2 % 4) * 16);
}

/// What the copy engine must know of the activations; made by the host.
struct alignas(128) TensorMap {
  u64 words[16];
};

/// Brings the activations of a stage. One warp of those along rows calls it.
__device__ __forceinline__ void fetch_activations(const TensorMap& map, int column, int token,
                                                  u32 tile, u32 barrier) {
  if (!elected()) return;
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
               "n"(kTileBytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], [%4];" ::"r"(tile),
      "l"(&map), "r"(column), "r"(token), "r"(barrier)
      : "memory");
}

/// The same where tokens do not begin at multiples of 16 bytes, which the engine asks for.
__device__ __forceinline__ void copy_activations(const u16* b, i64 stride, int column, int k, int n,
                                                 u32 tile, u32 barrier, int lane) {
  constexpr int kColumns = 16 * BLOCKS;
  for (int i = lane; i < TOKENS * kColumns; i += 32) {
    const int token = i / kColumns, at = i % kColumns;
    const bool there = token < n && column + at < k;
    const u16 x = there ? b[token * stride + column + at] : u16{0};
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(tile + swizzled(token, at / 8) + at % 8 * 2),
                 "h"(x)
                 : "memory");
  }
  fence_async_proxy();
  __syncwarp();
  if (elected()) arrive(barrier);
}

/// Four sums of one token: rows `row` … row + 3. `whole`: C takes four at once.
__device__ __forceinline__ void store_rows(float4 sum, int row, int token, C* c, i64 c_stride,
                                           const float* bias, const C* residual,
                                           i64 residual_stride, int m, bool whole) {
  struct alignas(4 * sizeof(C)) Four {
    C values[4];
  } four;
  const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (row + i < m)
      store_result(values[i], four.values, i, bias, row + i, residual,
                   token * residual_stride + row + i);
  }
  C* to = c + token * c_stride + row;
  if (whole && row + 3 < m) {
    *reinterpret_cast<Four*>(to) = four;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (row + i < m) to[i] = four.values[i];
  }
}

// `strip_rows`: first row of each strip, [block / SPLIT][warp along rows][STRIPS], -1 for none.
// Warps: [along K][along rows]. blockIdx.y: a tile of tokens. `map`: of b, when `has_map`.
// `region_bytes`: shared memory of a warp; `ring_rows`: of its ring.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    spmm_wide(const u8* stream, const WarpWork* works, const i32* strip_rows, const u16* b,
              i64 b_stride, C* c, i64 c_stride, const float* bias, const C* residual,
              i64 residual_stride, int m, int k, int n, int ring_rows, int region_bytes,
              const __grid_constant__ TensorMap map, int has_map) {
  extern __shared__ __align__(1024) u8 shared[];
  const int warp =
      __shfl_sync(~0u, threadIdx.x / 32, 0);  // The same in all lanes, and known to be.
  const int lane = threadIdx.x % 32;
  const u32 base = shared_address(shared);
  const u32 regions = K_GROUPS * SLOTS * kTileBytes;  // Offsets in `shared`: behind activations.
  const u32 all_barriers = base + regions + kWarps * region_bytes;
  const u32 all_full =
      all_barriers + kWarps * kWeightSlots * 8;  // Of activations, then empty ones.
  const u32 rows_at = all_barriers + kBarriers;  // Of the strips of this block.
  const u32 ring = regions + warp * region_bytes;
  const u32 ring_bytes = ring_rows * kRowBytes, ring_end = ring + ring_bytes;
  const u32 slots = ring_end + kMirror * kRowBytes;
  const u32 barriers = all_barriers + warp * (kWeightSlots * 8);
  const int k_group = warp / kRowWarps;
  const u32 full = all_full + k_group * (2 * SLOTS * 8);
  const u32 empty = full + SLOTS * 8;
  const WarpWork work = works[blockIdx.x * kWarps + warp];
  const int stages = work.stages, strips = work.strips;
  constexpr int kStrips = kRowWarps * STRIPS;
  static_assert(kStrips <= kThreads, "one for a thread");
  i32 row = -1;
  if (threadIdx.x < kStrips) row = strip_rows[blockIdx.x / SPLIT * kStrips + threadIdx.x];

  if (lane == 0) {
    for (int i = 0; i < kWeightSlots; ++i) init_barrier(barriers + i * 8, 1);
    publish_barriers();
    fence_async_proxy();
  }
  __syncwarp();

  StageCopies<kSlotBytes> weights{stream + work.offset, base + ring, base + slots, barriers};
  if (stages > 0) weights.fetch(work.copies[0], work.copies[1]);

  if (threadIdx.x < 2 * K_GROUPS * SLOTS)
    init_barrier(all_full + threadIdx.x * 8, threadIdx.x / SLOTS % 2 == 0 ? 1 : kRowWarps);
  if (threadIdx.x < kStrips)
    asm volatile("st.shared.s32 [%0], %1;" ::"r"(rows_at + threadIdx.x * 4), "r"(row) : "memory");
  __syncthreads();
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");

  const int first_token = blockIdx.y * TOKENS;
  b += first_token * b_stride;
  c += first_token * c_stride;
  if constexpr (HAS_RESIDUAL) residual += first_token * residual_stride;
  n = min(n - first_token, TOKENS);

  asm volatile("griddepcontrol.wait;" ::
                   : "memory");  // What follows may read and write activations.

  const u32 tiles = base + k_group * (SLOTS * kTileBytes);
  const bool fetches = warp % kRowWarps == 0;  // Activations, for its group along K.
  int column = work.block * 16;                // That is fetched next.
  u32 filled = 0, fill_phase = 1;              // And where it goes.
  const auto fetch_next_activations = [&] {
    const u32 tile = tiles + filled * kTileBytes, barrier = full + filled * 8;
    wait_for(empty + filled * 8, fill_phase);
    if (has_map) {
      fetch_activations(map, column, first_token, tile, barrier);
    } else {
      copy_activations(b, b_stride, column, k, n, tile, barrier, lane);
    }
    column += 16 * BLOCKS;
    if (++filled == SLOTS) {
      filled = 0;
      fill_phase ^= 1;
    }
  };
  if (fetches)
    for (int i = 0; i < min(kAhead, stages); ++i) fetch_next_activations();

  float sums[STRIPS][kAccumulators];
#pragma unroll
  for (int s = 0; s < STRIPS; ++s)
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) sums[s][i] = 0;

  u32 low_rows = ring + lane * 4, high_rows = low_rows + 2;
  u32 weight_slot = 0, weight_phase = 0, slot = 0, phase = 0;
  for (int stage = 0; stage < stages; ++stage) {
    wait_for(barriers + weight_slot * 8, weight_phase);
    const u8* header = shared + slots + weight_slot * kSlotBytes;
    if (stage + 1 < stages) {
      const uint2 copies = *reinterpret_cast<const uint2*>(header);
      weights.fetch(copies.x, copies.y);
    }
    if (fetches && stage + kAhead < stages) fetch_next_activations();
    wait_for(full + slot * 8, phase);
    const u64 activations = describe(tiles + slot * kTileBytes);

    Loaded loaded[2];
    u32 a[kGroup][4];
    // Merges what was loaded of fragment i of the sequence, and multiplies when a group is
    // complete.
    const auto finish = [&](int i, int swap) {
      if (i % kGroup == 0) wait_for_products();  // That read a.
      merge(loaded[i & 1], a[i % kGroup]);
      if (i % kGroup < kGroup - 1) return;
      begin_products();
#pragma unroll
      for (int q = 0; q < kGroup; ++q) {
        const int of = i - (kGroup - 1) + q, f = of % kFragments;
        const int block = (kThrough ? of / kFragments : swap) * SWAP_BLOCKS + f / STRIPS;
        multiply(sums[f % STRIPS], a[q], activations + block * 2);
      }
      end_products();
    };
#pragma unroll(kThrough ? kSwaps : 1)
    for (int swap = 0; swap < kSwaps; ++swap) {
      u32 masks[(kFragments + 3) / 4];
      load_masks<kFragments>(header + kHeaderBytes + swap * kMaskBytes, lane, masks);
      const u32 by = header[6 + swap];
      const u32 low = __shfl_xor_sync(~0u, low_rows, by & 31);
      const u32 high = __shfl_xor_sync(~0u, high_rows, by & 31);
      low_rows = by & 32 ? high : low;
      high_rows = by & 32 ? low : high;
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
        const int i = kThrough ? swap * kFragments + f : f;
        if (f % WRAP == 0) {
          if (low_rows >= ring_end) low_rows -= ring_bytes;
          if (high_rows >= ring_end) high_rows -= ring_bytes;
        }
        if (STRIPS == 1 || f % STRIPS < strips) {
          loaded[i & 1] = load_strip(shared, masks[f / 4] >> (f % 4 * 8), low_rows, high_rows);
        } else {
          loaded[i & 1] = {};
        }
        if (i > 0) finish(i - 1, swap);
      }
      if (!kThrough || swap == kSwaps - 1) finish(kSequence - 1, swap);
      // Those of the stage before are done.
      if (swap == 0 && stage > 0 && elected())
        arrive(empty + (slot == 0 ? SLOTS - 1 : slot - 1) * 8);
    }
    weight_slot ^= 1;
    weight_phase ^= weight_slot ^ 1;
    if (++slot == SLOTS) {
      slot = 0;
      phase ^= 1;
    }
    __syncwarp();  // All lanes have read what the next fetch overwrites.
  }
  wait_for_products();

  // Sums in the ring's place, [strip][token][row].
  const u32 mine = base + ring + lane % 4 * (2 * kSumBytes) + lane / 4 * 4;
#pragma unroll
  for (int s = 0; s < STRIPS; ++s)
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) {
      const int token = i / 4 * 8 + i % 2;
      asm volatile(
          "st.shared.f32 [%0], %1;" ::"r"(mine + (s * TOKENS + token) * kSumBytes + i / 2 % 2 * 32),
          "f"(sums[s][i])
          : "memory");
    }
  __syncthreads();

  // Pieces of four rows and one token: [warp along rows][strip][token][four rows].
  constexpr int kOfWarp = STRIPS * TOKENS * 4, kPieces = kRowWarps * kOfWarp;
  const auto place = [&](int e) {
    return base + regions + e / kOfWarp * region_bytes + e % kOfWarp / 4 * kSumBytes + e % 4 * 16;
  };
  const auto reduce = [&](int e) {
    const u32 at = place(e);
    float4 sum = load_sums(at);
#pragma unroll
    for (int g = 1; g < K_GROUPS; ++g) sum = add(sum, load_sums(at + g * kRowWarps * region_bytes));
    return sum;
  };
  const bool whole = reinterpret_cast<u64>(c) % (4 * sizeof(C)) == 0 && c_stride % 4 == 0;
  const auto store = [&](int e, float4 sum) {
    const int token = e / 4 % TOKENS;
    i32 first;
    asm volatile("ld.shared.s32 %0, [%1];" : "=r"(first) : "r"(rows_at + e / (TOKENS * 4) * 4));
    if (first < 0 || token >= n) return;
    store_rows(sum, first + e % 4 * 4, token, c, c_stride, bias, residual, residual_stride, m,
               whole);
  };
  // Several at once, so that they wait for memory together.
  const auto for_pieces = [&](int begin, int end, const auto& load, const auto& then) {
    constexpr int kAtOnce = 4;
    for (int e = begin + threadIdx.x; e < end; e += kAtOnce * kThreads) {
      float4 sum[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (e + i * kThreads < end) sum[i] = load(e + i * kThreads);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (e + i * kThreads < end) then(e + i * kThreads, sum[i]);
    }
  };
  if constexpr (SPLIT == 1) {
    for_pieces(0, kPieces, reduce, store);
  } else {
    // Each block stores its share; the others' it only adds up.
    const int rank = blockIdx.x % SPLIT;
    const int begin = kPieces * rank / SPLIT, end = kPieces * (rank + 1) / SPLIT;
    if constexpr (K_GROUPS > 1) {
      const auto keep = [&](int e, float4 sum) { store_sums(place(e), sum); };
      for_pieces(0, begin, reduce, keep);
      for_pieces(end, kPieces, reduce, keep);
    }
    cluster_barrier();
    const auto reduce_cluster = [&](int e) {
      const u32 at = place(e);
      float4 sum = rank == 0 ? reduce(e) : load_sums_of(0, at);
#pragma unroll
      for (int r = 1; r < SPLIT; ++r) sum = add(sum, r == rank ? reduce(e) : load_sums_of(r, at));
      return sum;
    };
    for_pieces(begin, end, reduce_cluster, store);
    leave_cluster();  // Others still read this block's sums.
  }
}
