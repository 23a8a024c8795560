// C = act(A·B + bias) + residual for tens of tokens and a sparse A: nonzeros scattered into dense
// tiles in shared memory, multiplied by wgmma, sm_90a.
//
// A block owns ROWS rows. A stage is 64 columns: a tile of ROWS × 128 bytes, K-major, in the
// swizzle of 128 bytes, which wgmma reads as its B operand; tokens are its A operand, so that a
// block may have any multiple of eight rows. Producer warps store a stage's nonzeros (words: place
// in the tile, value) into one of four zeroed tiles, 32 at a time, and store zeros at the same
// places when the tile has been multiplied. The packer orders the words so that 32 neighbours hit
// different banks as far as they can. A stage is a chain of waiting (for words, for stores to be
// seen, for a tile to be free, for each other) longer than its work: two groups of four warps take
// turns. Four consumer warps hold the sums.
//
// Words come by bulk copies, activations by cp.async from the same producers, both a group's next
// stages ahead. wgmma reads both operands from shared memory: with A in registers it would hold up
// its warps until they are read.
//
// A stage with more nonzeros than PER_WARP rounds of the producers hold comes in several, with the
// same columns; columns without nonzeros have none. SPLIT blocks of a cluster share a tile's stages
// and add up through distributed shared memory, always in the same order. The weight is constant,
// so its first words are fetched before the kernel ahead in the stream has ended.
//
// Constants: ROWS, SLABS (of 16 tokens), PER_WARP, ACTIVATION_STAGES, SPLIT, C_TYPE and those of
// epilogue.cuh; wgmma() for ROWS and the dtype stands in front.
#include "cuda/shared_barrier.cuh"
#include "ops/spmm/cuda/epilogue.cuh"
#include "ops/spmm/cuda/scatter/block.cuh"

using C = C_TYPE;

constexpr int kConsumers = 4;
constexpr int kGroups = 2, kOfGroup = 4;  // Of producers, warps of one.
constexpr int kProducers = kGroups * kOfGroup;
constexpr int kThreads = (kConsumers + kProducers) * 32;
constexpr int kBuffers = 2 * kGroups;
constexpr int kTokens = 16 * SLABS;
/// Of a tile: behind its rows lies what padding words are stored to.
constexpr int kTileBytes = ROWS * 128 + 1024;
constexpr int kActivationBytes = SLABS * 2048;
constexpr int kActivationSlots = 2 + ACTIVATION_STAGES;  // Of a group.
constexpr int kWordSlots = 3;                            // Of a group.
constexpr int kSumStride = ROWS + 8;  // Of a token's sums: their stores hit different banks.

__device__ __forceinline__ void store_low(u32 at, u32 word) {
  asm volatile(
      "{\n.reg .b16 low, high;\nmov.b32 {low, high}, %1;\nst.shared.b16 [%0], low;\n}" ::"r"(at),
      "r"(word)
      : "memory");
}

__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

/// Offsets in shared memory.
struct Layout {
  u32 tiles, activations, words, filled, emptied, words_filled, stages, groups;
  __device__ __forceinline__ Layout(u32 word_slot_bytes, int most_stages) {
    tiles = 0;
    activations = kBuffers * kTileBytes;
    // wgmma reads 64 tokens, whether they are there or not.
    words = activations + kGroups * kActivationSlots * kActivationBytes + (4 - SLABS) * 2048;
    filled = words + kGroups * kWordSlots * word_slot_bytes;
    emptied = filled + kBuffers * 8;
    words_filled = emptied + kBuffers * 8;
    stages = words_filled + kGroups * kWordSlots * 8;
    groups = stages + most_stages * 4;
  }
};

/// A producer's share of a stage's activations: 16 bytes of each 16th token, to rows of 128 bytes
/// in the swizzle of 128.
struct Activations {
  const u16* from[SLABS];
  bool there[SLABS];
  u32 to;
  int column, k;
  bool aligned;

  __device__ __forceinline__ Activations(const u16* b, i64 stride, int n, int k_, u32 slots,
                                         int thread)
      : k(k_) {
#pragma unroll
    for (int i = 0; i < SLABS; ++i) {
      const int token = thread / 8 + 16 * i;
      there[i] = token < n;
      from[i] = b + (token < n ? token * stride : 0);
    }
    column = thread % 8 * 8;
    to = slots + thread / 8 * 128 + (thread % 8 ^ thread / 8 % 8) * 16;
    aligned = (reinterpret_cast<u64>(b) & 15) == 0 && stride % 8 == 0;
  }

  __device__ __forceinline__ void copy(int slot, int first) const {
    const int at = first + column;
    const int left = max(0, min(8, k - at));
#pragma unroll
    for (int i = 0; i < SLABS; ++i) {
      const u32 target = to + slot * kActivationBytes + i * 2048;
      const int count = there[i] ? left : 0;
      const u16* source = from[i] + (left > 0 ? at : 0);
      if (aligned) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source),
                     "r"(count * 2)
                     : "memory");
      } else {
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const u16 x = e < count ? source[e] : u16{0};
          asm volatile("st.shared.u16 [%0], %1;" ::"r"(target + e * 2), "h"(x) : "memory");
        }
      }
    }
  }
};

/// A group of producers: every other stage, words into one of its two tiles, and zeros into the
/// other.
__device__ __forceinline__ void scatter_stages(u8* shared, u32 base, const Layout& at,
                                               const u32* stream, int stages, u32 word_slot_bytes,
                                               const u16* b, i64 b_stride, int n, int k) {
  const int lane = threadIdx.x % 32;
  const int producer = __shfl_sync(~0u, threadIdx.x / 32, 0) - kConsumers;
  const int group = producer / kOfGroup, warp = producer % kOfGroup;
  const u32* table = reinterpret_cast<const u32*>(shared + at.stages);
  const u32 slots = base + at.words + group * (kWordSlots * word_slot_bytes);
  const u32 slots_filled = base + at.words_filled + group * (kWordSlots * 8);
  const bool fetches = warp == 0 && lane == 0;
  int to_fetch = 0, fetch_slot = 0;  // The next stage, of both groups.
  const auto fetch = [&] {
    // Words of both groups lie stage after stage.
    for (int i = 0; i < kGroups && to_fetch < stages; ++i, ++to_fetch) {
      const u32 rounds = table[to_fetch] >> 16;
      if (i == group) {
        const u32 barrier = slots_filled + fetch_slot * 8;
        arrive_expecting(barrier, rounds * 128);
        bulk_copy(slots + fetch_slot * word_slot_bytes, stream, rounds * 128, barrier);
        fetch_slot = fetch_slot == kWordSlots - 1 ? 0 : fetch_slot + 1;
      }
      stream += rounds * 32;
    }
  };
  if (fetches) {
    for (int i = 0; i < kWordSlots - 1; ++i) fetch();
  }
  asm volatile("griddepcontrol.wait;" ::
                   : "memory");  // What follows may read and write activations.
  const Activations activations(
      b, b_stride, n, k, base + at.activations + group * (kActivationSlots * kActivationBytes),
      warp * 32 + lane);
  int copied = group, copy_slot = 0;  // The next stage whose activations are copied.
  const auto copy = [&] {
    if (copied < stages) activations.copy(copy_slot, (table[copied] & 0xffff) * 64);
    asm volatile("cp.async.commit_group;" ::: "memory");
    copied += kGroups;
    copy_slot = copy_slot == kActivationSlots - 1 ? 0 : copy_slot + 1;
  };
#pragma unroll
  for (int i = 0; i < ACTIVATION_STAGES; ++i) copy();
  u32 words[2][PER_WARP];
  int mine[2] = {};  // Rounds of this warp.
  int slot = 0;
  u32 phase = 0;
#pragma unroll 1
  for (int first = group; first < stages; first += kBuffers) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int stage = first + half * kGroups;
      if (stage >= stages) break;
      if (fetches) fetch();
      copy();  // Where those of a stage were whose tile has been emptied.
      const int buffer = group + half * kGroups;
      const int rounds = table[stage] >> 16;
      mine[half] = (rounds - warp + kOfGroup - 1) / kOfGroup;
      wait_for(slots_filled + slot * 8, phase);
      const u32 from = slots + slot * word_slot_bytes + (warp * 32 + lane) * 4;
      const u32 tile = base + at.tiles + buffer * kTileBytes;
#pragma unroll
      for (int i = 0; i < PER_WARP; ++i) {
        if (i < mine[half])
          asm volatile("ld.shared.u32 %0, [%1];"
                       : "=r"(words[half][i])
                       : "r"(from + i * (kOfGroup * 128)));
      }
#pragma unroll
      for (int i = 0; i < PER_WARP; ++i) {
        if (i < mine[half]) store_low(tile + (words[half][i] >> 16), words[half][i]);
      }
      asm volatile("cp.async.wait_group %0;" ::"n"(ACTIVATION_STAGES) : "memory");
      fence_async_proxy();
      __syncwarp();
      if (lane == 0) arrive(base + at.filled + buffer * 8);
      if (++slot == kWordSlots) {
        slot = 0;
        phase ^= 1;
      }
      // The next tile is zeroed by the whole group before any of it stores into it.
      const int next = stage + kGroups, other = 1 - half;
      if (next >= kBuffers && next < stages) {
        const int old = group + other * kGroups;
        wait_for(base + at.emptied + old * 8, (next / kBuffers - 1) & 1);
#pragma unroll
        for (int i = 0; i < PER_WARP; ++i) {
          if (i < mine[other])
            asm volatile("st.shared.b16 [%0], %1;" ::"r"(base + at.tiles + old * kTileBytes +
                                                         (words[other][i] >> 16)),
                         "h"(u16{0})
                         : "memory");
        }
      }
      asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(kOfGroup * 32) : "memory");
    }
  }
}

/// Consumers: stage after stage, a tile times 64 tokens.
__device__ __forceinline__ void multiply_stages(float (&sums)[ROWS / 2], u32 base, const Layout& at,
                                                int stages) {
  // K-major, rows of 128 bytes in the swizzle of 128: eight rows are 1024 bytes.
  constexpr u64 kDescriptor = u64{1} << 62 | u64{64} << 32 | u64{1} << 16;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < ROWS / 2; ++i) sums[i] = 0;
  int slot = 0;  // Of both groups' activations.
#pragma unroll 1
  for (int first = 0; first < stages; first += kBuffers) {
#pragma unroll
    for (int buffer = 0; buffer < kBuffers; ++buffer) {
      const int stage = first + buffer;
      if (stage >= stages) break;
      wait_for(base + at.filled + buffer * 8, (stage / kBuffers) & 1);
      const u32 group = buffer % kGroups;
      const u64 tokens =
          kDescriptor |
          (base + at.activations + (group * kActivationSlots + slot) * kActivationBytes) >> 4;
      const u64 tile = kDescriptor | (base + at.tiles + buffer * kTileBytes) >> 4;
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
      for (int i = 0; i < 4; ++i) wgmma(sums, tokens + 2 * i, tile + 2 * i);
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
      // The tile before is free.
      if (stage > 0 && lane == 0)
        arrive(base + at.emptied + (buffer == 0 ? kBuffers - 1 : buffer - 1) * 8);
      if (group == kGroups - 1) slot = slot == kActivationSlots - 1 ? 0 : slot + 1;
    }
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

// `table`: stages of all blocks, rounds << 16 | block of 64 columns. `groups`: first rows of the
// tile's groups of eight, -1 for none. blockIdx.y: a tile of tokens.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    spmm_scatter(const u32* stream, const ScatterBlock* blocks, const u32* table, const i32* groups,
                 int most_stages, u32 word_slot_bytes, const u16* b, i64 b_stride, C* c,
                 i64 c_stride, const float* bias, const C* residual, i64 residual_stride, int m,
                 int k, int n) {
  extern __shared__ __align__(1024) u8 shared[];
  const u32 base = shared_address(shared);
  const Layout at(word_slot_bytes, most_stages);
  const ScatterBlock work = blocks[blockIdx.x];
  const int stages = work.stages;
  const u32* words = stream + work.first;
  u32* table_here = reinterpret_cast<u32*>(shared + at.stages);
  i32* groups_here = reinterpret_cast<i32*>(shared + at.groups);

  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  if (threadIdx.x == 0) {
    for (int i = 0; i < kBuffers; ++i) {
      init_barrier(base + at.filled + i * 8, kOfGroup);
      init_barrier(base + at.emptied + i * 8, kConsumers);
    }
    for (int i = 0; i < kGroups * kWordSlots; ++i) init_barrier(base + at.words_filled + i * 8, 1);
    publish_barriers();
    fence_async_proxy();
  }
  for (int i = threadIdx.x; i < stages; i += kThreads) table_here[i] = table[work.first_stage + i];
  for (int i = threadIdx.x; i < ROWS / 8; i += kThreads)
    groups_here[i] = groups[blockIdx.x / SPLIT * (ROWS / 8) + i];
  __syncthreads();
  uint4* tiles = reinterpret_cast<uint4*>(shared + at.tiles);
  for (int i = threadIdx.x; i < kBuffers * kTileBytes / 16; i += kThreads)
    tiles[i] = make_uint4(0, 0, 0, 0);
  fence_async_proxy();
  __syncthreads();

  const int first_token = blockIdx.y * kTokens;
  n = min(n - first_token, kTokens);
  float* totals = reinterpret_cast<float*>(shared);  // In the tiles' place: [token][row].
  if (threadIdx.x >= kConsumers * 32) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 96;");
    scatter_stages(shared, base, at, words, stages, word_slot_bytes, b + first_token * b_stride,
                   b_stride, n, k);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    float sums[ROWS / 2];
    multiply_stages(sums, base, at, stages);
    asm volatile("bar.sync 2, 128;" ::: "memory");  // All four have read the last tile.
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (warp < SLABS) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float* token = totals + (warp * 16 + lane / 4 + 8 * h) * kSumStride + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < ROWS / 8; ++j)
          *reinterpret_cast<float2*>(token + 8 * j) =
              make_float2(sums[4 * j + 2 * h], sums[4 * j + 2 * h + 1]);
      }
    }
  }
  if constexpr (SPLIT == 1) {
    __syncthreads();
  } else {
    cluster_barrier();
  }
  asm volatile("griddepcontrol.wait;" ::: "memory");  // Consumers store results, too.
  const int rank = SPLIT > 1 ? blockIdx.x % SPLIT : 0;
  const int count = n * ROWS, share = (count + SPLIT - 1) / SPLIT;
  const int end = min(count, (rank + 1) * share);
  for (int i = rank * share + threadIdx.x; i < end; i += kThreads) {
    const int token = i / ROWS, place = i % ROWS;
    const u32 from = base + (token * kSumStride + place) * 4;
    float sum = 0;
    if constexpr (SPLIT == 1) {
      asm volatile("ld.shared.f32 %0, [%1];" : "=f"(sum) : "r"(from));
    } else {
#pragma unroll
      for (int r = 0; r < SPLIT; ++r) {
        u32 there;
        float v;
        asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(from), "r"(r));
        asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(there));
        sum += v;
      }
    }
    const i32 group = groups_here[place / 8];
    const i64 row = group + place % 8;
    if (group >= 0 && row < m)
      store_result(sum, c, (first_token + token) * c_stride + row, bias, row, residual,
                   (first_token + token) * residual_stride + row);
  }
  if constexpr (SPLIT > 1) cluster_barrier();  // Others still read this block's sums.
}
