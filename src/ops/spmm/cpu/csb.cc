// SpMM for many tokens on compressed sparse blocks: csb.*.
//
// The activations become panels of up to 64 tokens, K × tokens in f32. Three loops keep what is
// used again near: sweeps of K whose activations for all panels fit L2; in a sweep, rows of blocks;
// in those, blocks, whose activations for one panel fit L1. Entries stream past once for all
// panels, from memory for the first and from the caches for the others.
#include "formats/csb.h"

#include <algorithm>
#include <cmath>

#include "ops/spmm/cpu/csb_engine.h"
#include "ops/spmm/cpu/csr_panels.h"
#include "ops/spmm/cpu/strip_activations.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

constexpr std::int64_t kBlockRows = CsbMatrix::kBlockRows;
constexpr std::int64_t kBlockCols = CsbMatrix::kBlockCols;
/// Activations of a sweep, beside the sums of a row of blocks and the entries that go past.
constexpr std::int64_t kSweepBytes = 768 << 10;
/// Sums that wait between sweeps.
constexpr std::int64_t kSumBytes = 1 << 20;

struct Level {
  Isa isa;
  csb::Run* run;
  double cycles_per_vector;  ///< A nonzero times 16 tokens.
};

constexpr Level kLevels[] = {{Isa::kAvx512, csb::run_avx512, 0.85},
                             {Isa::kAvx2, csb::run_avx2, 1.7},
                             {Isa::kPortable, csb::run_portable, 10.0}};

/// Vectors of 16 tokens a panel has: the narrowest of 1, 2, 4 that holds them all, or 4.
int vectors_of(std::int64_t n) {
  return std::min(csb::kMostVectors, csr::panel_vectors(n));
}

/// One thread's rows of blocks, and panels.
class Worker {
 public:
  Worker(const CsbMatrix& a, const Level& level, const strip::Activations& x,
         const Epilogue& epilogue, std::int64_t n, std::int32_t first_panel,
         std::int32_t last_panel)
      : a_(a),
        level_(level),
        x_(x),
        epilogue_(epilogue),
        n_(n),
        first_panel_(first_panel),
        panels_(last_panel - first_panel) {
    const std::int64_t column_bytes = std::int64_t{panels_} * x.tokens * 4;
    sweep_ = std::max<std::int64_t>(1, kSweepBytes / column_bytes / kBlockCols);
    round_ = std::max<std::int64_t>(1, kSumBytes / column_bytes / kBlockRows);
  }

  void run(std::int64_t begin, std::int64_t end) const {
    if (begin >= end || panels_ == 0) return;
    const auto floats = static_cast<std::size_t>(std::min(round_, end - begin) * row_floats());
    Scratch sums(strip::huge_page_bytes(floats * sizeof(float)));
    for (std::int64_t r = begin; r < end; r += round_)
      run_round(r, std::min(end, r + round_), sums.as<float>());
  }

 private:
  /// Sums of a row of blocks: [panel][row][token].
  [[nodiscard]] std::int64_t row_floats() const { return panels_ * kBlockRows * x_.tokens; }

  void run_round(std::int64_t begin, std::int64_t end, float* sums) const {
    std::fill_n(sums, (end - begin) * row_floats(), 0.0F);
    for (std::int64_t c = 0; c < a_.grid_cols(); c += sweep_) {
      const std::int64_t stop = std::min(a_.grid_cols(), c + sweep_);
      for (std::int64_t r = begin; r < end; ++r) {
        float* row_sums = sums + (r - begin) * row_floats();
        // All blocks of a panel, then all again for the next: the sums of one panel stay near.
        for (std::int32_t panel = 0; panel < panels_; ++panel) {
          float* panel_sums = row_sums + panel * kBlockRows * x_.tokens;
          for (std::int64_t i = c; i < stop; ++i) run_block(r, i, panel, panel_sums);
          if (stop == a_.grid_cols()) store(r, panel, panel_sums);
        }
      }
    }
  }

  void run_block(std::int64_t row, std::int64_t col, std::int32_t panel, float* sums) const {
    const std::int64_t block = row * a_.grid_cols() + col;
    const std::int64_t visit = a_.visit_offsets()[block];
    const std::int64_t entry = a_.entry_offsets()[block];
    const std::int64_t k = (first_panel_ + panel) * x_.padded_k + col * kBlockCols;
    level_.run({.visits = a_.visits() + visit,
                .visit_count = a_.visit_offsets()[block + 1] - visit,
                .columns = a_.columns() + entry,
                .values = static_cast<const std::byte*>(a_.values()) +
                          entry * static_cast<std::int64_t>(size_of(a_.dtype())),
                .panel = static_cast<const float*>(x_.data) + k * x_.tokens,
                .sums = sums},
               x_.tokens / 16, a_.dtype());
  }

  void store(std::int64_t row, std::int32_t panel, const float* sums) const {
    const std::int64_t first = row * kBlockRows;
    const std::int64_t token = std::int64_t{first_panel_ + panel} * x_.tokens;
    csr::store_rows(epilogue_, sums, first, std::min(a_.rows(), first + kBlockRows), x_.tokens,
                    token, std::min<std::int64_t>(x_.tokens, n_ - token));
  }

  const CsbMatrix& a_;
  const Level& level_;
  const strip::Activations& x_;
  const Epilogue& epilogue_;
  std::int64_t n_;
  std::int32_t first_panel_, panels_;
  std::int64_t sweep_;  ///< Blocks side by side.
  std::int64_t round_;  ///< Rows of blocks.
};

class CsbKernel final : public SpmmKernel {
 public:
  CsbKernel(std::string_view name, const Level& level) : name_(name), level_(level) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem&) const override {
    if (spec != format::kCsb) return Support::no("runs csb weights only");
    return needs_isa(level_.isa);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const int vectors = vectors_of(p.n);
    const auto n = static_cast<double>(p.n);
    const auto m = static_cast<double>(p.m);
    const auto k = static_cast<double>(p.k);
    const double panels = std::ceil(n / (16.0 * vectors));
    const double lines = m * std::ceil(k / kBlockCols);
    const double visits = lines * (1.0 - std::pow(1.0 - pattern.density(), kBlockCols));
    // A visit's sums come from L2 and go back; a nonzero takes its column and a broadcast.
    const double a_panel =
        static_cast<double>(pattern.nnz) * (0.6 + vectors * level_.cycles_per_vector) +
        visits * (4 + 3.5 * vectors);
    return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = panels * a_panel + n * k + n * m};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const CsbMatrix&>(matrix);
    const auto tiles =
        strip::TokenTiles::of(args.b.rows, std::int64_t{16} * vectors_of(args.b.rows));
    const strip::FmaActivations x(args.b, tiles, a.cols(), pool);
    const Epilogue epilogue(args);
    // Threads share rows of blocks; where there are more threads than rows, panels too.
    const std::int64_t token_parts = std::clamp<std::int64_t>(
        pool.size() / std::max<std::int64_t>(1, a.grid_rows()), 1, tiles.count);
    const std::int64_t row_parts = std::max<std::int64_t>(1, pool.size() / token_parts);
    pool.run([&](int thread) {
      if (thread >= token_parts * row_parts) return;
      const std::int64_t t = thread % token_parts;
      const std::int64_t r = thread / token_parts;
      const auto panel = [&](std::int64_t part) {
        return static_cast<std::int32_t>(tiles.count * part / token_parts);
      };
      const Worker worker(a, level_, x.get(), epilogue, args.b.rows, panel(t), panel(t + 1));
      worker.run(cut(a, r, row_parts), cut(a, r + 1, row_parts));
    });
  }

 private:
  /// The first row of blocks of a part, such that the parts have equal shares of the entries: the
  /// cut nearest to the share.
  static std::int64_t cut(const CsbMatrix& a, std::int64_t part, std::int64_t parts) {
    const auto before = [&](std::int64_t row) {
      // Zeroing and storing the sums of a row of blocks costs what some entries cost.
      return a.entry_offsets()[row * a.grid_cols()] + row * 4 * kBlockRows;
    };
    const std::int64_t target = before(a.grid_rows()) * part / parts;
    std::int64_t row = 0;
    while (row < a.grid_rows() && before(row + 1) + before(row) <= 2 * target) ++row;
    return row;
  }

  std::string_view name_;
  const Level& level_;
};

}  // namespace

std::span<const SpmmKernel* const> csb_kernels() {
  static const CsbKernel avx512("csb.avx512", kLevels[0]);
  static const CsbKernel avx2("csb.avx2", kLevels[1]);
  static const CsbKernel portable("csb.portable", kLevels[2]);
  static const SpmmKernel* const kernels[] = {&avx512, &avx2, &portable};
  return kernels;
}

}  // namespace rarefy
