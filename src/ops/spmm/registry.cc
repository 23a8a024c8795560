// The list of all SpMM kernels, and the choice among them when nobody planned.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
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
           gather_kernels(),
           strip_kernels(),
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
    case Format::kDelta:
    case Format::kSell: {
      // Gaps longer than the field hold an escape each; uniform gaps are geometric.
      const double reach = std::exp2(std::min(spec.index_bits, 16)) - 1;
      const double miss = std::pow(1.0 - pattern.density(), reach);
      const double escapes = miss < 1.0 ? nnz * miss / (1.0 - miss) : 0.0;
      const double slots = spec.format == Format::kSell ? 1.05 * (nnz + escapes) : nnz + escapes;
      return slots * (element + spec.index_bits / 8.0) + 8 * rows;
    }
    case Format::kNm:
      return positions * spec.n / spec.m * (element + std::ceil(std::log2(spec.m)) / 8);
    case Format::kBsr: {
      const double block = static_cast<double>(spec.block_rows) * spec.block_cols;
      const double used = 1.0 - std::pow(1.0 - pattern.density(), block);
      const bool as_collected =
          spec.block_rows == pattern.block_rows && spec.block_cols == pattern.block_cols;
      return positions * (as_collected ? pattern.block_density() : used) * (element + 4.0 / block);
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
