// What kernel families share. A family is one function that lists its kernels, and one line in
// registry.cc.
//
// A kernel may rely on this: `spmm` checked every shape, stride and dtype, the layout is
// token-major (B is N×K, C is N×M), N, M and K are at least 1, `supports` said yes. It must give
// the same bits for any number of threads: cut the work by rows or tokens, never a sum by threads.
#pragma once

#include <span>

#include "rarefy/spmm.h"

namespace rarefy {

std::span<const SpmmKernel* const> panel_kernels();
std::span<const SpmmKernel* const> gather_kernels();
std::span<const SpmmKernel* const> lists_kernels();
std::span<const SpmmKernel* const> nm_kernels();
std::span<const SpmmKernel* const> nm_panel_kernels();
std::span<const SpmmKernel* const> dense_rows_kernels();
std::span<const SpmmKernel* const> bitmap_kernels();
std::span<const SpmmKernel* const> window_kernels();
std::span<const SpmmKernel* const> sell_kernels();
std::span<const SpmmKernel* const> onednn_kernels();
std::span<const SpmmKernel* const> strip_kernels();
std::span<const SpmmKernel* const> csr_kernels();
std::span<const SpmmKernel* const> csb_kernels();
std::span<const SpmmKernel* const> bitmap_panel_kernels();
std::span<const SpmmKernel* const> half_kernels();
std::span<const SpmmKernel* const> sell_panel_kernels();
std::span<const SpmmKernel* const> hybrid_kernels();

/// "needs avx512, active is avx2" when the active level is below `needed`.
Support needs_isa(Isa needed);

/// Seconds on a machine of ordinary ceilings: what `default_spmm_kernel` ranks by where nobody has
/// measured this one.
double ordinary_seconds(const SpmmCost& cost, int threads);

/// Exact or closely estimated bytes of a weight of this pattern packed as `spec`. `pattern` may
/// lack row_nnz and block_nnz (empty); the nonzeros then count as uniform.
double estimated_bytes(const FormatSpec& spec, const PatternStats& pattern, DType weight);

/// Bytes of activations and results, which every kernel moves beside the weight.
double activation_bytes(const SpmmProblem& problem);

}  // namespace rarefy
