// The composed format back as dense rows, for products of many tokens.
//
// A block assembles a row, WINDOW columns at a time, in shared memory and stores it as a whole:
// that of one item, or of neighbours that share it. Rows that were cut into pieces are cleared by
// `expand_clear`; their pieces then store each nonzero where it belongs. What a vector is padded
// with is zero, and stores nothing.
//
// Constants: VALUE, INDEX, DELTA, VEC, SWIZZLED as in composed.cu; WINDOW.
#include "cuda/number.cuh"
#include "cuda/vector_load.cuh"

using Value = VALUE;

// What columns.cuh wants to know of the activations of a product: here there are none.
#define N_TILE 1
#define N_LANES 1
#define TOKEN_MAJOR 1
#define THREADS 256
#define BLOCKS 1
using B = Value;
using StagedB = Value;
#include "ops/spmm/cuda/composed/columns.cuh"

template <int BYTES>
struct BitsOf;
template <>
struct BitsOf<2> {
  using Type = u16;
};
template <>
struct BitsOf<4> {
  using Type = u32;
};
using Bits = BitsOf<sizeof(Value)>::Type;

constexpr int kThreads = THREADS;
constexpr int kOfPiece = 16 / sizeof(Bits);  // Values of 16 bytes.
constexpr u32 kPiece = 0x80000000u;          // As in composed.cu; in even.cu, that there is no row.
constexpr int kJoinShift = 29;
constexpr u32 kTarget = (1u << kJoinShift) - 1;

/// Calls `put(column, bits)` for what this block's threads find in the vectors [first, last).
template <class Put>
__device__ __forceinline__ void each_nonzero(const Columns* columns, const Pack<Value, VEC>* values,
                                             u32 first, u32 last, const Put& put) {
  for (u32 v = first + threadIdx.x; v < last; v += kThreads) {
    const Columns column = load_columns(columns + v);
    const Pack<Value, VEC> value = load_once(values + v);
    u32 place[VEC];
    column.places(place);
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
      const Bits bits = reinterpret_cast<const Bits&>(value.value[i]);
      if (bits != 0) put(place_of(place[i]), bits);  // Swizzling twice is the way back.
    }
  }
}

/// The same for an item, and its head where it has one.
template <class Put>
__device__ __forceinline__ void each_of_item(const u32* begin, const Columns* columns,
                                             const Pack<Value, VEC>* values, u32 item, int heads,
                                             int head, const Put& put) {
  if (item < heads) each_nonzero(columns, values, item * head, (item + 1) * head, put);
  each_nonzero(columns, values, begin[item], begin[item + 1], put);
}

/// Block i: item i, and its neighbours where they share a row. A row goes to `dense`; a piece of a
/// row is left to expand_pieces.
extern "C" __global__ void __launch_bounds__(kThreads)
    expand_rows(const u32* begin, const u32* target, const Columns* columns,
                const Pack<Value, VEC>* values, int heads, int head, Bits* dense, int k) {
  __shared__ alignas(16) Bits row[WINDOW];
  const u32 goal = target[blockIdx.x];
  if (goal & kPiece) return;
  const u32 together = 1u << (goal >> kJoinShift & 3u);
  if (blockIdx.x % together != 0) return;
  Bits* const out = dense + static_cast<i64>(goal & kTarget) * k;
  for (int from = 0; from < k; from += WINDOW) {
    const int count = min(WINDOW, k - from);
    const int pieces = (count + kOfPiece - 1) / kOfPiece;
    for (int i = threadIdx.x; i < pieces; i += kThreads)
      reinterpret_cast<uint4*>(row)[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    for (u32 i = 0; i < together; ++i) {
      each_of_item(begin, columns, values, blockIdx.x + i, heads, head, [&](u32 column, Bits bits) {
        const int at = static_cast<int>(column) - from;
        if (at >= 0 && at < count) row[at] = bits;
      });
    }
    __syncthreads();
    if (k % kOfPiece == 0) {
      for (int i = threadIdx.x; i < pieces; i += kThreads)
        reinterpret_cast<uint4*>(out + from)[i] = reinterpret_cast<const uint4*>(row)[i];
    } else {
      for (int i = threadIdx.x; i < count; i += kThreads) out[from + i] = row[i];
    }
    __syncthreads();
  }
}

/// Block i: the i-th row that was cut.
extern "C" __global__ void __launch_bounds__(kThreads)
    expand_clear(const u32* rows, Bits* dense, int k) {
  Bits* const out = dense + static_cast<i64>(rows[blockIdx.x]) * k;
  for (int i = threadIdx.x; i < k; i += kThreads) out[i] = 0;
}

/// Block i: item i where that is a piece.
extern "C" __global__ void __launch_bounds__(kThreads)
    expand_pieces(const u32* begin, const u32* target, const Columns* columns,
                  const Pack<Value, VEC>* values, int heads, int head, const u32* rows,
                  const u32* row_of_piece, Bits* dense, int k) {
  const u32 goal = target[blockIdx.x];
  if ((goal & kPiece) == 0) return;
  Bits* const out = dense + static_cast<i64>(rows[row_of_piece[goal & kTarget]]) * k;
  each_of_item(begin, columns, values, blockIdx.x, heads, head,
               [&](u32 column, Bits bits) { out[column] = bits; });
}
