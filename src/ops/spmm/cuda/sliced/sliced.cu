// C = act(A·B + bias) + residual where a handful of nonzeros of every row meet 4 to 16 columns of
// B, gathered from shared memory without bank conflicts.
//
// A block keeps PART rows of B times a tile of columns in shared memory, 16 bytes a row (a plane:
// f32 four columns, f16 eight). Eight lanes that gather 16 bytes each are served in one cycle when
// their rows lie in different bank groups, that is, differ modulo 8. A row of A belongs to LANES
// lanes; its nonzeros may be visited in any order, so the host orders those of eight lanes such
// that at every step the eight rows differ modulo 8 (pack.h). What remains of random gathers is no
// conflict at all, for a few per cent of steps that multiply zeros.
//
// A block works on a range of consecutive rows of C, which it collects in shared memory and stores
// when all are done: whole lines in either layout. Pieces of a long row have places of their own
// there, and are added up in a fixed order: the same bits every time.
//
// Constants: VALUE, B_TYPE, C_TYPE, PLANES, PART, PARTS, LANES, THREADS, BLOCKS (a multiprocessor),
// TOKEN_MAJOR, and those of epilogue.cuh.
#include "cuda/dependent.cuh"
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"

using Value = VALUE;
using B = B_TYPE;
using C = C_TYPE;

#include "ops/spmm/cuda/epilogue.cuh"

constexpr int kPack = 16 / sizeof(B);  // Columns of B in a plane.
constexpr int kTile = PLANES * kPack;
constexpr int kBatch = 4;  // Nonzeros that a lane loads at once.
constexpr int kWarps = THREADS / 32;
constexpr int kPlaneRows = PART + 8;  // Eight rows of zeros, for steps without a nonzero.
// Batches in flight. A third gains 1 to 4 % in f32; of halves, whose planes have eight sums, it
// does not fit in 64 registers.
constexpr int kDepth = sizeof(Value) == 4 ? 3 : 2;
constexpr int kAhead = 8;  // Batches that are asked to come to L2 before they are loaded.
constexpr u32 kNoSlot = 0xFFFFu;
static_assert(PART % 8 == 0, "places move within groups of eight");

using Row = Pack<B, kPack>;

/// Where row `i` of a part lies: threads that store eight neighbouring rows hit different banks.
__device__ __forceinline__ int place_of(int i) {
  return i ^ (i >> 3 & 7);
}

/// 16 bytes of each column at a time, turned in registers.
__device__ __forceinline__ void stage_tokens(Row* staged, const B* b, i64 b_stride, int first_row,
                                             int rows, int first, int n) {
#pragma unroll 1
  for (int i = threadIdx.x; i < rows / kPack; i += THREADS) {
    Row token[kPack] = {};
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      if (first + j < n)
        token[j] =
            *reinterpret_cast<const Row*>(b + (first + j) * b_stride + first_row + i * kPack);
    }
#pragma unroll
    for (int r = 0; r < kPack; ++r) {
      Row row;
#pragma unroll
      for (int j = 0; j < kPack; ++j) row.value[j] = token[j].value[r];
      staged[place_of(i * kPack + r)] = row;
    }
  }
}

/// Rows of B whose values lie together.
__device__ __forceinline__ void stage_features(Row* staged, const B* b, i64 b_stride, int first_row,
                                               int rows, int first) {
#pragma unroll 4
  for (int i = threadIdx.x; i < rows; i += THREADS)
    staged[place_of(i)] = *reinterpret_cast<const Row*>(b + (first_row + i) * b_stride + first);
}

/// One value at a time: for any shape and alignment.
__device__ __forceinline__ void stage_values(Row* staged, const B* b, i64 b_stride, int first_row,
                                             int rows, int first, int n) {
#pragma unroll 1
  for (int i = threadIdx.x; i < rows; i += THREADS) {
    Row row = {};
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const i64 k = first_row + i;
      if (first + j < n)
        row.value[j] = b[TOKEN_MAJOR ? (first + j) * b_stride + k : k * b_stride + first + j];
    }
    staged[place_of(i)] = row;
  }
}

/// Rows [first_row, first_row + rows) of B to shared memory; columns beyond n are zeros.
__device__ __forceinline__ void stage(Row* staged, const B* b, i64 b_stride, int first_row,
                                      int rows, int n0, int n) {
  const bool aligned = b_stride % kPack == 0 && (!TOKEN_MAJOR || rows % kPack == 0) &&
                       reinterpret_cast<u64>(b) % 16 == 0;
#pragma unroll 1
  for (int plane = 0; plane < PLANES; ++plane) {
    Row* const to = staged + plane * kPlaneRows;
    const int first = n0 + plane * kPack;
    if (TOKEN_MAJOR && aligned) {
      stage_tokens(to, b, b_stride, first_row, rows, first, n);
    } else if (!TOKEN_MAJOR && aligned && first + kPack <= n) {
      stage_features(to, b, b_stride, first_row, rows, first);
    } else {
      stage_values(to, b, b_stride, first_row, rows, first, n);
    }
    if (threadIdx.x < 8) to[PART + threadIdx.x] = Row{};
  }
}

/// Value `i` of those that lie in words.
template <class T>
__device__ __forceinline__ float value_of(const u32* words, int i) {
  if constexpr (sizeof(T) == 4) {
    return __uint_as_float(words[i]);
  } else {
    const u32 word = words[i / 2];
    T half;
    half.bits = static_cast<u16>(i % 2 == 0 ? word : word >> 16);
    return to_float(half);
  }
}

/// Four nonzeros of this lane: places in shared memory, and values. Kept as words: halves that are
/// taken apart when they arrive, not when they are used, would have the warp wait for every load.
struct Batch {
  static constexpr int kValueWords = kBatch * sizeof(Value) / 4;
  Pack<u32, 2> places;
  Pack<u32, kValueWords> values;

  /// A batch of 32 lanes: all places, then all values.
  static constexpr int kBytes = 32 * (8 + 4 * kValueWords);

  __device__ __forceinline__ void load(const char* batch, int lane) {
    places = load_once(reinterpret_cast<const Pack<u32, 2>*>(batch) + lane);
    values = load_once(reinterpret_cast<const Pack<u32, kValueWords>*>(batch + 32 * 8) + lane);
  }

  /// Asks for a batch to come to L2; every line of it once.
  __device__ __forceinline__ static void prefetch(const char* batch, int lane) {
    constexpr int kLine = 128;
    if (lane < kBytes / kLine) prefetch_l2(batch + lane * kLine);
  }

  __device__ __forceinline__ float value(int i) const { return value_of<Value>(values.value, i); }

  __device__ __forceinline__ void multiply(float (&sums)[kTile], const Row* staged) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const u32 word = places.value[i / 2];
      const Row* const row = staged + (i % 2 == 0 ? word & 0xFFFFu : word >> 16);
      const float a = value(i);
#pragma unroll
      for (int plane = 0; plane < PLANES; ++plane) {
        const Row x = row[plane * kPlaneRows];
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          float& sum = sums[plane * kPack + j];
          sum = fmaf(a, to_float(x.value[j]), sum);
        }
      }
      // One nonzero at a time is all that 64 registers hold.
      if constexpr (PLANES > 1) {
        asm volatile("" ::: "memory");
      }
    }
  }
};

/// Pieces of one row: their sums lie in `count` slots from `first` on, and belong to `slot`.
struct Fold {
  u16 slot, first, count, unused;
};

/// A slice's sums, added up over the lanes of each item, to their slots.
__device__ __forceinline__ void flush(float (&sums)[kTile], float* sums_of_slots, u32 slot,
                                      int lane) {
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int j = 0; j < kTile; ++j) sums[j] += __shfl_xor_sync(0xFFFFFFFFu, sums[j], distance);
  }
  if (lane % LANES == 0 && slot != kNoSlot) {
#pragma unroll
    for (int j = 0; j < kTile; j += 4) {
      float4& to = *reinterpret_cast<float4*>(sums_of_slots + slot * kTile + j);
      const float4 before = PARTS > 1 ? to : float4{};
      to = {before.x + sums[j], before.y + sums[j + 1], before.z + sums[j + 2],
            before.w + sums[j + 3]};
    }
  }
#pragma unroll
  for (int j = 0; j < kTile; ++j) sums[j] = 0;
}

/// What a warp does in a part: the batches [begin, end), from slice `slice` on.
struct alignas(16) Stream {
  u32 slice, begin, end, unused;
};

/// Range r owns rows [rows[r], rows[r + 1]) of C; its warp w has in part p the stream
/// (r · PARTS + p) · kWarps + w. Slice s holds the batches [slices[s], slices[s + 1]), and slots[s
/// · 32 / LANES + …] says where its lanes' sums go. B is not __restrict__: the kernel ahead may
/// still be writing it when this one starts.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    spmm_sliced(const u32* __restrict__ rows, const Stream* __restrict__ streams,
                const u32* __restrict__ slices, const u16* __restrict__ slots,
                const u32* __restrict__ fold_begin, const Fold* __restrict__ folds,
                const char* __restrict__ batches, const B* b, i64 b_stride, C* c, i64 c_stride,
                const float* __restrict__ bias, const C* residual, i64 residual_stride,
                int most_slots, int k, int n) {
  extern __shared__ __align__(16) char shared[];
  Row* const staged = reinterpret_cast<Row*>(shared);
  float* const sums_of_slots = reinterpret_cast<float*>(staged + PLANES * kPlaneRows);
  const int n0 = blockIdx.y * kTile;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;

  for (int i = threadIdx.x; i < most_slots * kTile / 4; i += THREADS)
    reinterpret_cast<float4*>(sums_of_slots)[i] = float4{};

#pragma unroll 1
  for (int part = 0; part < PARTS; ++part) {
    // Load: the first nonzeros are on their way while the kernel ahead ends and B is staged.
    const Stream stream = streams[(blockIdx.x * PARTS + part) * kWarps + warp];
    u32 slice = stream.slice;
    u32 at = stream.begin;
    const u32 end = stream.end;
    const char* batch = batches + static_cast<u64>(at) * Batch::kBytes;
    Batch ring[kDepth];
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (at + d < end) ring[d].load(batch + d * Batch::kBytes, lane);
    }
#pragma unroll 1
    for (int d = kDepth; d < kDepth + kAhead; ++d) {
      if (at + d < end) Batch::prefetch(batch + d * Batch::kBytes, lane);
    }
    u32 stop = at < end ? slices[slice + 1] : end;
    u32 slot = at < end ? slots[slice * (32 / LANES) + lane / LANES] : kNoSlot;
    if (part == 0) {
      let_next_start();
      wait_for_previous();
    } else {
      __syncthreads();  // The part before has been read.
    }
    const int first_row = part * PART;
    stage(staged, b, b_stride, first_row, k - first_row < PART ? k - first_row : PART, n0, n);
    __syncthreads();

    float sums[kTile] = {};
    while (at < end) {
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        // Multiply.
        ring[d].multiply(sums, staged);
        if (at + kDepth < end) {
          ring[d].load(batch + kDepth * Batch::kBytes, lane);
          if (at + kDepth + kAhead < end)
            Batch::prefetch(batch + (kDepth + kAhead) * Batch::kBytes, lane);
        }
        batch += Batch::kBytes;
        // Reduce.
        if (++at == stop) {
          flush(sums, sums_of_slots, slot, lane);
          if (at == end) break;
          ++slice;
          stop = slices[slice + 1];
          slot = slots[slice * (32 / LANES) + lane / LANES];
        }
      }
    }
  }
  __syncthreads();

  // Pieces of long rows.
  const u32 folds_end = fold_begin[blockIdx.x + 1];
  if (fold_begin[blockIdx.x] < folds_end) {
    for (u32 f = fold_begin[blockIdx.x] + threadIdx.x / kTile; f < folds_end;
         f += THREADS / kTile) {
      const Fold fold = folds[f];
      const int j = threadIdx.x % kTile;
      float sum = sums_of_slots[fold.slot * kTile + j];
      for (int i = 0; i < fold.count; ++i) sum += sums_of_slots[(fold.first + i) * kTile + j];
      sums_of_slots[fold.slot * kTile + j] = sum;
    }
    __syncthreads();
  }

  // Store.
  const int first_c = rows[blockIdx.x];
  const int count = rows[blockIdx.x + 1] - first_c;
  if constexpr (TOKEN_MAJOR) {
    for (int i = threadIdx.x; i < count; i += THREADS) {
      const i64 row = first_c + i;
#pragma unroll
      for (int j = 0; j < kTile; ++j) {
        const i64 token = n0 + j;
        if (token < n)
          store_result(sums_of_slots[i * kTile + j], c, token * c_stride + row, bias, row, residual,
                       token * residual_stride + row);
      }
    }
  } else {
    for (int i = threadIdx.x; i < count * kTile; i += THREADS) {
      const i64 row = first_c + i / kTile;
      const i64 token = n0 + i % kTile;
      if (token < n)
        store_result(sums_of_slots[i], c, row * c_stride + token, bias, row, residual,
                     row * residual_stride + token);
    }
  }
}
