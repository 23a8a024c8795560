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
#include "ops/spmm/cpu/strip_activations.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

using strip::Activations;

/// Of a 48 KiB L1, what a range of a panel takes; a row's sums and nonzeros pass through the rest.
constexpr std::int64_t kRangeBytes = 32 << 10;
/// A row's sums are loaded and stored once a range: fewer nonzeros than this would not pay for it,
/// and the range grows into L2 instead.
constexpr double kEntriesARange = 16;
constexpr std::int64_t kMostRangeBytes = 512 << 10;
/// Sums that a thread keeps between ranges.
constexpr std::int64_t kSumBytes = 512 << 10;
constexpr std::int64_t kMostTokens = 16 * csr::kMostVectors;

struct Level {
  Isa isa;
  csr::Run* run;
  csr::RunBlocks* run_blocks;
  double cycles_per_vector;  ///< A nonzero times 16 tokens.
};

constexpr Level kLevels[] = {
    {Isa::kAvx512, csr::run_avx512, csr::run_blocks_avx512, 1.0},
    {Isa::kAvx2, csr::run_avx2, csr::run_blocks_avx2, 2.2},
    {Isa::kPortable, csr::run_portable, csr::run_blocks_portable, 10.0},
};

/// Vectors of 16 tokens a panel has: the narrowest of 1, 2, 4, 8 that holds them all.
int panel_vectors(std::int64_t n) {
  int vectors = 1;
  while (vectors < csr::kMostVectors && 16 * vectors < n) vectors *= 2;
  return vectors;
}

/// Columns of a range of K.
std::int64_t range_columns(double density, int vectors) {
  const std::int64_t column_bytes = std::int64_t{64} * vectors;
  const double enough = kEntriesARange / std::max(density, 1e-6);
  const double most = static_cast<double>(kMostRangeBytes / column_bytes);
  return std::max(kRangeBytes / column_bytes, static_cast<std::int64_t>(std::min(enough, most)));
}

/// Results of rows [begin, end) for the tokens of a panel; sums: [row][token].
void store_rows(const Epilogue& epilogue, const float* sums, std::int64_t begin, std::int64_t end,
                std::int64_t panel_tokens, std::int64_t first_token, std::int64_t tokens) {
  constexpr std::int64_t kRun = 64;
  float gathered[kRun];
  for (std::int64_t r0 = begin; r0 < end; r0 += kRun) {
    const std::int64_t count = std::min(kRun, end - r0);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float* from = sums + (r0 - begin) * panel_tokens + t;
      const bool plain = epilogue.is_plain_f32();
      float* to = plain ? epilogue.c().row<float>(first_token + t) + r0 : gathered;
      for (std::int64_t r = 0; r < count; ++r) to[r] = from[r * panel_tokens];
      if (!plain) epilogue.store(first_token + t, r0, gathered, count);
    }
  }
}

/// Cuts [0, units) where the weight of units before, offsets[u] + u·unit_weight, reaches the part's
/// share.
std::int64_t cut(const std::int64_t* offsets, std::int64_t units, std::int64_t unit_weight,
                 std::int64_t part, std::int64_t parts) {
  const auto weight = [&](std::int64_t u) { return offsets[u] - offsets[0] + u * unit_weight; };
  const std::int64_t target = weight(units) * part / parts;
  std::int64_t low = 0;
  std::int64_t high = units;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (weight(middle) < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/// One thread's rows [begin, end): multiply(rows, range, panel, sums, add) for all panels and
/// ranges, and the results stored.
struct PanelWalk {
  const Activations& x;
  const Epilogue& epilogue;
  std::int64_t n, k, range;

  template <class Start, class Multiply>
  void run(std::int64_t begin, std::int64_t end, Start&& start, Multiply&& multiply) const {
    const std::int64_t ranges = (k + range - 1) / range;
    const std::int64_t round =
        std::max<std::int64_t>(64, kSumBytes / (x.tokens * std::int64_t{sizeof(float)}));
    Scratch sums(strip::huge_page_bytes(
        static_cast<std::size_t>(std::min(round, end - begin) * x.tokens) * sizeof(float)));
    for (std::int64_t r0 = begin; r0 < end; r0 += round) {
      const std::int64_t r1 = std::min(end, r0 + round);
      for (std::int32_t tile = 0; tile < x.token_tiles; ++tile) {
        const float* panel = static_cast<const float*>(x.data) + tile * x.padded_k * x.tokens;
        start(r0, r1);
        for (std::int64_t i = 0; i < ranges; ++i)
          multiply(r0, r1, i * range, std::min(k, (i + 1) * range), panel, sums.as<float>(), i > 0);
        const std::int64_t first = std::int64_t{tile} * x.tokens;
        store_rows(epilogue, sums.as<float>(), r0, r1, x.tokens, first,
                   std::min<std::int64_t>(x.tokens, n - first));
      }
    }
  }
};

/// What both kernels count: 16-token vectors of products, and activations turned into panels.
SpmmCost panel_cost(const FormatSpec& spec, const PatternStats& pattern, const SpmmProblem& p,
                    double entries, const Level& level) {
  const double vectors = std::ceil(static_cast<double>(p.n) / kMostTokens) * panel_vectors(p.n);
  const auto n = static_cast<double>(p.n);
  const double ranges =
      std::ceil(static_cast<double>(p.k) /
                static_cast<double>(range_columns(pattern.density(), panel_vectors(p.n))));
  const double sums = static_cast<double>(p.m) * ranges * (20 + 2 * vectors);
  return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
          .cycles = entries * (1.5 + vectors * level.cycles_per_vector) + sums +
                    2 * n * static_cast<double>(p.k) + 2 * n * static_cast<double>(p.m)};
}

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
