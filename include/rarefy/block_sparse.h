// Block-sparse weights that train: the products of a linear layer and of its gradients, on values
// that stay where their owner keeps them (an optimizer, a framework).
//
// Unlike a packed `Matrix` (matrix.h) nothing is prepared: values change between calls, and the
// same array serves all three products.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "rarefy/dtype.h"
#include "rarefy/spmm.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy {

/// Which blocks of a weight are stored: a view of the caller's arrays.
///
/// Block b of row r of blocks, row_offsets[r] <= b < row_offsets[r + 1], holds rows r·block_rows…
/// and columns col_indices[b]·block_cols… of the weight. The same blocks by columns: those of
/// column c are order[i] for col_offsets[c] <= i < col_offsets[c + 1], in rows row_indices[i].
/// Indices ascend within a row and within a column.
struct BlockPattern {
  std::int64_t rows = 0;  ///< Of the weight (M, the outputs); a multiple of block_rows.
  std::int64_t cols = 0;  ///< K, the inputs; a multiple of block_cols.
  int block_rows = 1;
  int block_cols = 1;
  std::span<const std::int32_t> row_offsets;  ///< rows / block_rows + 1
  std::span<const std::int32_t> col_indices;  ///< One a block.
  /// By columns; only products with the transposed weight read these, others may leave them empty.
  std::span<const std::int32_t> col_offsets;  ///< cols / block_cols + 1
  std::span<const std::int32_t> row_indices;  ///< One a block.
  std::span<const std::int32_t> order;        ///< One a block: its place among the values.

  [[nodiscard]] std::int64_t blocks() const { return std::ssize(col_indices); }
};

/// The arrays by columns that belong to a pattern by rows.
struct BlockColumns {
  std::vector<std::int32_t> offsets, row_indices, order;
};

/// Sorts the blocks of `pattern` by columns; its own arrays by columns are not read.
BlockColumns block_columns(const BlockPattern& pattern);

/// Checks all arrays of a pattern, those by columns included, and that both sides name the same
/// blocks. Throws `Error` (kInvalidArgument) naming the array and the place. Products check on
/// every call what they read, so that no index leads outside of memory; this checks what they
/// take on trust besides.
void validate(const BlockPattern& pattern);

/// Stored values: blocks × block_rows × block_cols, contiguous, block after block in the order of
/// rows, each block row-major (torch's BSR layout). f32, bf16 or f16.
struct ConstBlockValues {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t count = 0;  ///< Elements.
};
struct BlockValues {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t count = 0;
  operator ConstBlockValues() const { return {data, dtype, count}; }
};

/// C = act(A·B + bias) + residual with the M×K weight A: a linear layer, C = X·Aᵀ in the terms of a
/// framework whose activations are T rows of K values.
///
/// Activations are token-major; any number of tokens, 0 included. Sums in f32, in an order that
/// does not depend on the number of threads or of tokens: bitwise the same for any of them. bf16
/// values and activations are multiplied as they are; where either is f32 or f16, in f32 (or, with
/// Precision::kBf16 and bf16 values, with activations rounded to bf16). Throws `Error`:
/// kInvalidArgument for shapes, strides, dtypes, offsets or indices that do not fit.
void block_linear(const BlockPattern& pattern, ConstBlockValues values, const SpmmArgs& args,
                  ThreadPool& pool = default_pool());

/// C = act(Aᵀ·B + bias) + residual: B has M features, C has K. With B the gradient of a layer's
/// outputs, C is that of its inputs. Reads the values in place: nothing is transposed beforehand.
void block_linear_transposed(const BlockPattern& pattern, ConstBlockValues values,
                             const SpmmArgs& args, ThreadPool& pool = default_pool());

/// out = the stored blocks of Pᵀ·Q: out[i,j] = Σ_t P[t,i]·Q[t,j]. With P the gradient of a layer's
/// outputs and Q its inputs, that of its values.
///
/// @param p T×M, row-major; f32, f16 or bf16.
/// @param q T×K, row-major; same dtype as p.
/// @param out one value for each stored position, laid out as the weight's values; f32, f16 or
/// bf16. Sums in f32, in an order that does not depend on the number of threads.
void block_sddmm(const BlockPattern& pattern, ConstMatrixRef p, ConstMatrixRef q, BlockValues out,
                 ThreadPool& pool = default_pool());

/// The three in double, one product after the other. c must be f64.
void block_linear_reference(const BlockPattern& pattern, ConstBlockValues values,
                            const SpmmArgs& args);
void block_linear_transposed_reference(const BlockPattern& pattern, ConstBlockValues values,
                                       const SpmmArgs& args);
/// `out` has one double for each stored position.
void block_sddmm_reference(const BlockPattern& pattern, ConstMatrixRef p, ConstMatrixRef q,
                           std::span<double> out);

}  // namespace rarefy
