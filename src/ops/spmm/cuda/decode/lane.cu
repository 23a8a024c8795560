// C = act(A·B + bias) + residual for few tokens: a bitmap weight decoded straight into the A
// fragments of tensor cores (mma.m16n8k16), sm_90 on.
//
// A warp owns STRIPS strips of 16 rows and a range of K. Lane (g, t) = (lane / 4, lane % 4) decodes
// rows g and g + 8 of a strip at columns 4t … 4t+3 of a block of 16: eight positions, one byte of
// mask. Values lie in 64 half-columns of shared memory, a row of 128 bytes a level, so that 16-bit
// loads of a warp never meet in a bank, whatever level each lane has reached: a nonzero costs a
// load and a pointer that moves on by a row. Lanes use up values at different rates; before every
// block the packer swaps half-columns between lanes (an XOR of their numbers, done here by
// shuffling pointers) so that all stay within a few levels of each other and little is padded.
//
// A stage is BLOCKS blocks of K: a header, masks and new value rows, brought into shared memory by
// the warp itself, one stage ahead, and activations, which the warps along rows bring together.
// Value rows form a ring; how a stage meets its end was worked out by the packer. The first rows of
// the ring lie behind its end too, so that a pointer must be wrapped only once in WRAP strips.
//
// Warps along K are added up in shared memory and, with SPLIT blocks of a cluster, across their
// shared memories, always in the same order. The weight is constant, so its first stage is fetched
// before the kernel ahead in the stream has ended.
//
// Constants: STRIPS, TOKEN_TILES (of 8), ROW_WARPS, K_WARPS, BLOCKS, WRAP, SPLIT, BF16, C_TYPE and
// those of epilogue.cuh.
#include "ops/spmm/cuda/decode/lane.cuh"
#include "ops/spmm/cuda/epilogue.cuh"

using C = C_TYPE;

constexpr int kWarps = ROW_WARPS * K_WARPS;
constexpr int kThreads = kWarps * 32;
constexpr int kSlots = 2;                // Of stages: decoded, in flight.
constexpr int kMirror = 4 * WRAP;        // Rows behind the ring's end.
constexpr int kMaskBytes = STRIPS * 32;  // Of a block.
constexpr int kSlotBytes = kHeaderBytes + BLOCKS * kMaskBytes;
constexpr int kTileBytes = 256;  // Activations of a block and 8 tokens.
constexpr int kActivationBytes = BLOCKS * TOKEN_TILES * kTileBytes;
constexpr int kSums = STRIPS * TOKEN_TILES * 32;            // 16-byte pieces of a warp.
constexpr int kBarriers = (kWarps + K_WARPS) * kSlots * 8;  // Of weights, then of activations.
constexpr int kSharers = 32 * ROW_WARPS;                    // Lanes that share activations.

__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], uint2 b) {
#if BF16
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
#endif
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

/// Copies the activations of one stage, which the warps along rows share: pieces of 16 bytes,
/// [block][token][half] in shared memory, zeros past K and past the last token. Lanes go along K
/// first, so that a token's whole stage is one contiguous read; each warp copies its share of the
/// tokens, and a lane has the same pieces of every stage.
struct Activations {
  static constexpr int kOfToken = 2 * BLOCKS;    // Pieces of a token and stage.
  static constexpr int kAtOnce = 32 / kOfToken;  // Tokens.
  static constexpr int kRounds = 8 * TOKEN_TILES / kAtOnce;
  static constexpr int kMine = (kRounds + ROW_WARPS - 1) / ROW_WARPS;  // Of a warp, at most.
  static_assert(32 % kOfToken == 0 && kRounds >= 1, "whole tokens fill a warp");
  const u16* from;  // Of this lane's first token.
  i64 step;         // From one of its tokens to the next.
  int left;         // Bytes before K ends.
  int tokens;       // Those that there are from its first token on.
  int rounds;       // That this warp must not exceed.
  u32 to;           // Where its first piece goes.
  bool aligned;     // To 16 bytes, in every token.

  __device__ __forceinline__ Activations(const u16* b, i64 stride, int n, int k, int column,
                                         int lane, int warp, bool is_aligned)
      : aligned(is_aligned) {
    const int token = warp * kAtOnce + lane / kOfToken, piece = lane % kOfToken;
    const int at = column + piece * 8;
    from = b + (token < n && at < k ? token * stride + at : 0);
    step = ROW_WARPS * kAtOnce * stride;
    left = (k - at) * 2;
    tokens = min(n, 8 * TOKEN_TILES) - token;
    rounds = kRounds - warp;
    to = piece / 2 * (TOKEN_TILES * kTileBytes) + token * 32 + piece % 2 * 16;
  }

  __device__ __forceinline__ void copy(u32 slot, u32 barrier) {
    const int here = min(16, max(0, left));
    const u16* source = from;
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      if (kRounds % ROW_WARPS != 0 && i * ROW_WARPS >= rounds) break;
      const int bytes = i * ROW_WARPS * kAtOnce < tokens ? here : 0;
      const u32 target = slot + to + i * (ROW_WARPS * kAtOnce * 32);
      if (aligned) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(target),
                     "l"(bytes > 0 ? source : from), "r"(bytes)
                     : "memory");
      } else {
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const u16 x = e * 2 < bytes ? source[e] : u16{0};
          asm volatile("st.shared.u16 [%0], %1;" ::"r"(target + e * 2), "h"(x) : "memory");
        }
      }
      source += step;
    }
    // Arrives when this lane's copies have: with none outstanding, at once.
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
    left -= 32 * BLOCKS;
    from += left > 0 ? 16 * BLOCKS : 0;
  }
};

// `strip_rows`: first row of each strip, [block / SPLIT][ROW_WARPS][STRIPS], -1 for none.
// blockIdx.y: a tile of tokens. `region_bytes`: shared memory of a warp; `ring_rows`: of its
// ring.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    spmm_lane(const u8* stream, const WarpWork* works, const i32* strip_rows, const u16* b,
              i64 b_stride, C* c, i64 c_stride, const float* bias, const C* residual,
              i64 residual_stride, int m, int k, int n, int ring_rows, int region_bytes) {
  extern __shared__ __align__(128) u8 shared[];
  const int warp =
      __shfl_sync(~0u, threadIdx.x / 32, 0);  // The same in all lanes, and known to be.
  const int lane = threadIdx.x % 32;
  const u32 base = shared_address(shared);
  const u32 ring = warp * region_bytes;  // Offsets in `shared`.
  const u32 ring_bytes = ring_rows * kRowBytes, ring_end = ring + ring_bytes;
  const u32 slots = ring_end + kMirror * kRowBytes;
  const int k_warp = warp % K_WARPS, row_warp = warp / K_WARPS;
  const u32 activations = kWarps * region_bytes + k_warp * (kSlots * kActivationBytes);
  const u32 all_barriers = base + kWarps * region_bytes + K_WARPS * (kSlots * kActivationBytes);
  const u32 barriers = all_barriers + warp * (kSlots * 8);  // Of weights.
  const u32 shared_barriers = all_barriers + (kWarps + k_warp) * (kSlots * 8);
  const WarpWork work = works[blockIdx.x * kWarps + warp];
  const int stages = work.stages;

  constexpr int kStrips = ROW_WARPS * STRIPS;
  static_assert(kStrips <= kThreads, "one for a thread");
  i32 row = -1;  // Loaded here, so that nobody waits for it.
  if (threadIdx.x < kStrips) row = strip_rows[blockIdx.x / SPLIT * kStrips + threadIdx.x];

  if (lane == 0) {
    for (int i = 0; i < kSlots; ++i) {
      init_barrier(barriers + i * 8, 1);
      if (row_warp == 0) init_barrier(shared_barriers + i * 8, kSharers);
    }
    publish_barriers();
    fence_async_proxy();
  }
  __syncwarp();

  StageCopies<kSlotBytes> weights{stream + work.offset, base + ring, base + slots, barriers};
  if (stages > 0) weights.fetch(work.copies[0], work.copies[1]);

  const u32 rows_at = all_barriers + kBarriers;  // Of the strips of this block.
  if (threadIdx.x < kStrips)
    asm volatile("st.shared.s32 [%0], %1;" ::"r"(rows_at + threadIdx.x * 4), "r"(row) : "memory");
  if constexpr (ROW_WARPS > 1) __syncthreads();  // Others arrive on this warp's barriers.
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::
                   : "memory");  // What follows may read and write activations.

  const int first_token = blockIdx.y * (8 * TOKEN_TILES);
  b += first_token * b_stride;
  c += first_token * c_stride;
  if constexpr (HAS_RESIDUAL) residual += first_token * residual_stride;
  n -= first_token;
  Activations pieces(b, b_stride, n, k, work.block * 16, lane, row_warp,
                     (reinterpret_cast<u64>(b) & 15) == 0 && b_stride % 8 == 0);
  if (stages > 0) pieces.copy(base + activations, shared_barriers);

  float sums[STRIPS][TOKEN_TILES][4] = {};
  u32 low_rows = ring + lane * 4, high_rows = low_rows + 2;
  u32 slot = 0, phase = 0;
  for (int stage = 0; stage < stages; ++stage) {
    wait_for(barriers + slot * 8, phase);
    wait_for(shared_barriers + slot * 8, phase);
    const u8* header = shared + slots + slot * kSlotBytes;
    const u8* tile = shared + activations + slot * kActivationBytes + lane * 8;
    if (stage + 1 < stages) {
      const uint2 copies = *reinterpret_cast<const uint2*>(header);
      weights.fetch(copies.x, copies.y);
      slot ^= 1;
      // All that share activations have done with those of the stage before.
      if constexpr (ROW_WARPS > 1)
        asm volatile("bar.sync %0, %1;" ::"r"(1 + k_warp), "n"(kSharers) : "memory");
      pieces.copy(base + activations + slot * kActivationBytes, shared_barriers + slot * 8);
      phase ^= slot ^ 1;
    }
#pragma unroll 1
    for (int block = 0; block < BLOCKS; ++block) {
      u32 masks[(STRIPS + 3) / 4];
      load_masks<STRIPS>(header + kHeaderBytes + block * kMaskBytes, lane, masks);
      uint2 x[TOKEN_TILES];
#pragma unroll
      for (int i = 0; i < TOKEN_TILES; ++i)
        x[i] = *reinterpret_cast<const uint2*>(tile + (block * TOKEN_TILES + i) * kTileBytes);

      const u32 swap = header[6 + block];
      const u32 low = __shfl_xor_sync(~0u, low_rows, swap & 31);
      const u32 high = __shfl_xor_sync(~0u, high_rows, swap & 31);
      low_rows = swap & 32 ? high : low;
      high_rows = swap & 32 ? low : high;

      Loaded loaded[2];
#pragma unroll
      for (int s = 0; s <= STRIPS; ++s) {
        if (s < STRIPS) {
          if (s % WRAP == 0) {
            if (low_rows >= ring_end) low_rows -= ring_bytes;
            if (high_rows >= ring_end) high_rows -= ring_bytes;
          }
          loaded[s & 1] = load_strip(shared, masks[s / 4] >> (s % 4 * 8), low_rows, high_rows);
        }
        if (s > 0) {
          u32 a[4];
          merge(loaded[~s & 1], a);
#pragma unroll
          for (int i = 0; i < TOKEN_TILES; ++i) multiply(sums[s - 1][i], a, x[i]);
        }
      }
    }
    __syncwarp();  // All lanes have read what the next fetch overwrites.
  }

  // Sums of all warps along K, in the ring's place.
#pragma unroll
  for (int s = 0; s < STRIPS; ++s)
#pragma unroll
    for (int i = 0; i < TOKEN_TILES; ++i)
      store_sums(base + ring + ((s * TOKEN_TILES + i) * 32 + lane) * 16,
                 make_float4(sums[s][i][0], sums[s][i][1], sums[s][i][2], sums[s][i][3]));
  __syncthreads();
  // One is enough. compute-sanitizer's racecheck takes warps that had a stage more than others, and
  // so waited for one barrier more, to be a barrier ahead, and needs another.
  if constexpr (ROW_WARPS > 1) __syncthreads();

  const auto reduce = [&](int e) {
    const u32 at = base + e / kSums * K_WARPS * region_bytes + e % kSums * 16;
    float4 sum = load_sums(at);
#pragma unroll
    for (int w = 1; w < K_WARPS; ++w) sum = add(sum, load_sums(at + w * region_bytes));
    return sum;
  };
  const auto store = [&](int e, float4 sum) {
    const int tile = e % kSums / 32, token = tile % TOKEN_TILES * 8 + e % 4 * 2;
    i32 first;
    asm volatile("ld.shared.s32 %0, [%1];"
                 : "=r"(first)
                 : "r"(rows_at + (e / kSums * STRIPS + tile / TOKEN_TILES) * 4));
    const int row = first + e % 32 / 4;
    const auto put = [&](int token, int row, float value) {
      if (first < 0 || token >= n || row >= m) return;
      store_result(value, c, token * c_stride + row, bias, row, residual,
                   token * residual_stride + row);
    };
    put(token, row, sum.x);
    put(token + 1, row, sum.y);
    put(token, row + 8, sum.z);
    put(token + 1, row + 8, sum.w);
  };
  constexpr int kPieces = ROW_WARPS * kSums;
  if constexpr (SPLIT == 1) {
    for (int e = threadIdx.x; e < kPieces; e += kThreads) store(e, reduce(e));
  } else {
    const int rank = blockIdx.x % SPLIT;
    for (int e = threadIdx.x; e < kPieces; e += kThreads)
      store_sums(base + e / kSums * K_WARPS * region_bytes + e % kSums * 16, reduce(e));
    cluster_barrier();
    for (int e = kPieces * rank / SPLIT + threadIdx.x; e < kPieces * (rank + 1) / SPLIT;
         e += kThreads) {
      const u32 at = base + e / kSums * K_WARPS * region_bytes + e % kSums * 16;
      float4 sum = load_sums_of(0, at);
#pragma unroll
      for (int r = 1; r < SPLIT; ++r) sum = add(sum, load_sums_of(r, at));
      store(e, sum);
    }
    leave_cluster();  // Others still read this block's sums.
  }
}
