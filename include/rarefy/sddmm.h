// Sampled dense × dense: products only where a sparse matrix has its nonzeros (the gradient of a
// sparse weight).
#pragma once

#include "rarefy/matrix.h"
#include "rarefy/tensor.h"

namespace rarefy {

/// Values of S = Pᵀ·Q at the places stored in `pattern`: S[i,j] = Σ_t P[t,i]·Q[t,j], t = 0…T-1.
///
/// @param pattern M×K in any format; its values are ignored.
/// @param p T×M, row-major; for a linear layer the gradient of its outputs. f32, f16 or bf16.
/// @param q T×K, row-major; the layer's inputs. Same dtype as p.
/// @return an M×K matrix in the format and dtype of `pattern` with the same stored places. Places
/// whose sum is zero stay stored where the format can hold an explicit zero (CSR, BSR, dense) and
/// read as zero elsewhere. Sums in f32, in a fixed order: bitwise the same for any number of
/// threads. Throws `Error`: kInvalidArgument for shapes, strides or dtypes that do not fit,
/// kUnsupported for more columns than places can be counted in.
MatrixPtr sddmm(const Matrix& pattern, ConstMatrixRef p, ConstMatrixRef q,
                ThreadPool& pool = default_pool());

/// The same in double; `out` has M·K doubles, zero where nothing is stored.
void sddmm_reference(const Matrix& pattern, ConstMatrixRef p, ConstMatrixRef q, double* out);

}  // namespace rarefy
