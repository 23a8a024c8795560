// The list of all SpMM kernels, and the choice among them when nobody planned.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "formats/hybrid_shares.h"
#include "ops/spmm/kernel.h"

namespace rarefy {
namespace {

/// One line a family; fastest families first.
std::vector<const SpmmKernel*> collect() {
  std::vector<const SpmmKernel*> all;
  for (const std::span<const SpmmKernel* const> family : {
           onednn_kernels(),
           dense_rows_kernels(),
           bitmap_kernels(),
           window_kernels(),
           sell_kernels(),
           nm_kernels(),
           gather_kernels(),
           strip_kernels(),
           csr_kernels(),
           csb_kernels(),
           bitmap_panel_kernels(),
           nm_panel_kernels(),
           half_kernels(),
           sell_panel_kernels(),
           hybrid_kernels(),
           lists_kernels(),
           panel_kernels(),
       }) {
    all.insert(all.end(), family.begin(), family.end());
  }
  return all;
}

}  // namespace

std::span<const SpmmKernel* const> spmm_kernels() {
  static const std::vector<const SpmmKernel*> kernels = collect();
  return kernels;
}

const SpmmKernel* find_spmm_kernel(std::string_view name) {
  for (const SpmmKernel* kernel : spmm_kernels()) {
    if (kernel->name() == name) return kernel;
  }
  return nullptr;
}

Support needs_isa(Isa needed) {
  if (active_isa() >= needed) return Support::yes();
  return Support::no(
      fmt::format("needs {}, active is {}", to_string(needed), to_string(active_isa())));
}

double ordinary_seconds(const SpmmCost& cost, int threads) {
  constexpr double kBytesPerSecond = 20e9;  // One thread's share of DRAM bandwidth.
  constexpr double kHertz = 2.5e9;
  const double workers = std::max(1, threads);
  return std::max(cost.bytes / (kBytesPerSecond * workers), cost.cycles / (kHertz * workers));
}

double estimated_bytes(const FormatSpec& spec, const PatternStats& pattern, DType weight) {
  const auto element = static_cast<double>(size_of(weight));
  const auto rows = static_cast<double>(pattern.rows);
  const double positions = rows * static_cast<double>(pattern.cols);
  const auto nnz = static_cast<double>(pattern.nnz);
  switch (spec.format) {
    case Format::kDense:
      return positions * element;
    case Format::kCsr:
      return nnz * (element + spec.index_bits / 8.0) + 8 * (rows + 1);
    case Format::kBitmap:
      return nnz * element + positions / 8 + positions / 512 * 4;
    case Format::kDelta: {
      // Uniform gaps are geometric; a gap beyond the reach of a code takes an escape each time.
      const double miss = std::pow(1.0 - pattern.density(), std::exp2(spec.index_bits) - 1);
      const double codes = miss < 1.0 ? nnz / (1.0 - miss) : 0.0;
      return nnz * element + codes * spec.index_bits / 8 + rows * (16 + 16);
    }
    case Format::kWindow: {
      // Masks of about 2 bytes a 16 lanes and step; odd lists of bf16 end with a zero.
      const double windows = rows * std::ceil(static_cast<double>(pattern.cols) / 128);
      const double lane = weight == DType::kBF16 ? 2 : 1;
      const double padded = nnz + (lane - 1) * 0.5 * windows;
      return padded * (element + 1) + (padded / lane + windows * 2) / 8 * 1.3;
    }
    case Format::kCsb: {
      const double blocks =
          std::ceil(rows / 256) * std::ceil(static_cast<double>(pattern.cols) / 128);
      const double lines = rows * std::ceil(static_cast<double>(pattern.cols) / 128);
      const double visits = lines * (1.0 - std::pow(1.0 - pattern.density(), 128));
      return nnz * (element + 1) + 2 * visits + 16 * (blocks + 1);
    }
    case Format::kSell: {
      // As kDelta, but an escape holds a value too, and rows are padded to the longest of 16.
      const double miss = std::pow(1.0 - pattern.density(), std::exp2(spec.index_bits) - 1);
      const double slots = miss < 1.0 ? nnz / (1.0 - miss) : 0.0;
      return 1.05 * slots * (element + spec.index_bits / 8.0) + 8 * rows;
    }
    case Format::kNm:
      return positions * spec.n / spec.m * (element + std::ceil(std::log2(spec.m)) / 8);
    case Format::kBsr: {
      const double grid_rows = std::ceil(rows / spec.block_rows);
      const double grid =
          grid_rows * std::ceil(static_cast<double>(pattern.cols) / spec.block_cols);
      const double block = static_cast<double>(spec.block_rows) * spec.block_cols;
      return grid * pattern.block_share(spec.block_rows, spec.block_cols) * (block * element + 4) +
             8 * (grid_rows + 1);
    }
    case Format::kHybrid: {
      const HybridShares shares = hybrid_shares(spec, pattern);
      const double order = 4 * ((spec.sort_rows ? rows : 0) +
                                (spec.sort_cols ? static_cast<double>(pattern.cols) : 0));
      const double tiles = shares.tiles * (64 + 2) + rows + shares.tile_nonzeros * element + order;
      if (shares.sparse_nonzeros == 0) return tiles;
      const double blocks =
          std::ceil(rows / 256) * std::ceil(static_cast<double>(pattern.cols) / 128);
      return tiles + shares.sparse_nonzeros * (element + 1) + 2 * shares.sparse_visits +
             16 * (blocks + 1);
    }
  }
  return positions * element;
}

double activation_bytes(const SpmmProblem& p) {
  return static_cast<double>(p.n) *
         (static_cast<double>(p.k) * static_cast<double>(size_of(p.activations)) +
          static_cast<double>(p.m) * static_cast<double>(size_of(p.output)));
}

const SpmmKernel& default_spmm_kernel(const Matrix& a, const SpmmProblem& problem) {
  PatternStats pattern;
  pattern.rows = a.rows();
  pattern.cols = a.cols();
  pattern.nnz = a.nnz();
  const SpmmKernel* best = nullptr;
  double best_seconds = std::numeric_limits<double>::infinity();
  for (const SpmmKernel* kernel : spmm_kernels()) {
    if (!kernel->supports(a.spec(), problem)) continue;
    const double seconds =
        ordinary_seconds(kernel->cost(a.spec(), pattern, problem), problem.threads);
    if (best == nullptr || seconds < best_seconds) {
      best = kernel;
      best_seconds = seconds;
    }
  }
  if (best == nullptr)
    fail(ErrorKind::kInternal, "spmm: no kernel for {} {}", a.spec().name(), to_string(a.dtype()));
  return *best;
}

}  // namespace rarefy
