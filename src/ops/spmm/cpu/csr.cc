// SpMM for many tokens on CSR and on blocks that lie row-major: csr.*.panels and bsr.*.panels.
//
// The activations become panels of up to 128 tokens, K × tokens in f32. Each thread takes rows with
// an equal share of the nonzeros; for each panel it walks K in ranges that fit L1, and in each
// range its rows.
#include "formats/csr.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"
#include "formats/bsr.h"
#include "ops/spmm/cpu/csr_engine.h"
#include "ops/spmm/cpu/csr_panels.h"
#include "ops/spmm/cpu/strip_activations.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

using csr::cut;
using csr::kLevels;
using csr::Level;
using csr::panel_cost;
using csr::panel_vectors;
using csr::PanelWalk;
using csr::range_columns;

class CsrPanels final : public SpmmKernel {
 public:
  CsrPanels(std::string_view name, const Level& level) : name_(name), level_(level) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != Format::kCsr) return Support::no("runs CSR weights only");
    if (p.n < 2) return Support::no("is for N from 2 on");
    return needs_isa(level_.isa);
  }
  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    return panel_cost(spec, pattern, p, static_cast<double>(pattern.nnz), level_);
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const CsrMatrix&>(matrix);
    const int vectors = panel_vectors(args.b.rows);
    const auto tiles = strip::TokenTiles::of(args.b.rows, std::int64_t{16} * vectors);
    const strip::FmaActivations x(args.b, tiles, a.cols(), pool);
    const Epilogue epilogue(args);
    const PanelWalk walk{x.get(), epilogue, args.b.rows, a.cols(),
                         range_columns(a.density(), vectors)};
    pool.run([&](int worker) {
      constexpr std::int64_t kRowWeight = 4;
      const std::int64_t begin = cut(a.row_offsets(), a.rows(), kRowWeight, worker, pool.size());
      const std::int64_t end = cut(a.row_offsets(), a.rows(), kRowWeight, worker + 1, pool.size());
      if (begin == end) return;
      Scratch next_storage(static_cast<std::size_t>(end - begin) * sizeof(std::int64_t));
      auto* next = next_storage.as<std::int64_t>();
      walk.run(
          begin, end,
          [&](std::int64_t r0, std::int64_t r1) {
            std::copy(a.row_offsets() + r0, a.row_offsets() + r1, next);
          },
          [&](std::int64_t r0, std::int64_t r1, std::int64_t, std::int64_t k_end,
              const float* panel, float* sums, bool add) {
            level_.run({.row_offsets = a.row_offsets(),
                        .columns = a.arrays().col_indices.data(),
                        .values = a.values(),
                        .row_begin = r0,
                        .row_end = r1,
                        .k_end = k_end,
                        .entries_a_row = static_cast<std::int64_t>(a.density() *
                                                                   static_cast<double>(walk.range)),
                        .next = next,
                        .panel = panel,
                        .sums = sums,
                        .add = add},
                       vectors, a.spec().index_bits, a.dtype());
          });
    });
  }

 private:
  std::string_view name_;
  const Level& level_;
};

class BsrPanels final : public SpmmKernel {
 public:
  BsrPanels(std::string_view name, const Level& level) : name_(name), level_(level) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != Format::kBsr) return Support::no("runs block sparse weights only");
    if (Bsr::in_strips(spec, p.weight)) return Support::no("blocks of 16 rows lie in strips");
    return needs_isa(level_.isa);
  }
  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const double stored =
        estimated_bytes(spec, pattern, p.weight) / static_cast<double>(size_of(p.weight));
    return panel_cost(spec, pattern, p, stored, level_);
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const Bsr&>(matrix);
    const int vectors = panel_vectors(args.b.rows);
    const auto tiles = strip::TokenTiles::of(args.b.rows, std::int64_t{16} * vectors);
    const std::int64_t padded_k = a.grid_cols() * a.block_cols();
    const strip::FmaActivations x(args.b, tiles, padded_k, pool);
    const Epilogue epilogue(args);
    const double share = static_cast<double>(a.row_offsets()[a.grid_rows()]) /
                         static_cast<double>(a.grid_rows() * a.grid_cols());
    const std::int64_t range =
        std::max<std::int64_t>(1, range_columns(share, vectors) / a.block_cols()) * a.block_cols();
    const PanelWalk walk{x.get(), epilogue, args.b.rows, padded_k, range};
    pool.run([&](int worker) {
      const auto first_row = [&](std::int64_t part) {
        return std::min(a.rows(),
                        a.block_rows() * cut(a.row_offsets(), a.grid_rows(), 1, part, pool.size()));
      };
      const std::int64_t begin = first_row(worker);
      const std::int64_t end = first_row(worker + 1);
      if (begin == end) return;
      walk.run(
          begin, end, [](std::int64_t, std::int64_t) {},
          [&](std::int64_t r0, std::int64_t r1, std::int64_t k_begin, std::int64_t k_end,
              const float* panel, float* sums, bool add) {
            level_.run_blocks({.row_offsets = a.row_offsets(),
                               .columns = a.columns(),
                               .values = a.block(0),
                               .height = a.block_rows(),
                               .width = a.block_cols(),
                               .row_begin = r0,
                               .row_end = r1,
                               .k_begin = k_begin,
                               .k_end = k_end,
                               .panel = panel,
                               .sums = sums,
                               .add = add},
                              vectors, a.dtype());
          });
    });
  }

 private:
  std::string_view name_;
  const Level& level_;
};

}  // namespace

std::span<const SpmmKernel* const> csr_kernels() {
  static const CsrPanels csr[] = {{"csr.avx512.panels", kLevels[0]},
                                  {"csr.avx2.panels", kLevels[1]},
                                  {"csr.portable.panels", kLevels[2]}};
  static const BsrPanels bsr[] = {{"bsr.avx512.panels", kLevels[0]},
                                  {"bsr.avx2.panels", kLevels[1]},
                                  {"bsr.portable.panels", kLevels[2]}};
  static const SpmmKernel* const kernels[] = {&csr[0], &csr[1], &csr[2], &bsr[0], &bsr[1], &bsr[2]};
  return kernels;
}

}  // namespace rarefy
