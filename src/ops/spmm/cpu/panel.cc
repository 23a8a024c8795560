// Kernels that run every format at every shape: a panel of rows is decoded by `read_rows`, widened
// to f32 a range of columns at a time, and multiplied while that lies in L2. They need nothing else
// of a format, and so are what a format has before it has kernels of its own.
#include <algorithm>
#include <cstring>

#include "ops/spmm/cpu/activations.h"
#include "ops/spmm/cpu/panel_inner.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

/// Columns widened at once: 4 rows and 6 tokens of them are 40 KiB, inside L1.
constexpr std::int64_t kRange = 1024;
/// A decoded panel stays in L2 beside its range in f32.
constexpr std::int64_t kPanelBytes = 768 << 10;
constexpr std::int64_t kMostRows = 64;

std::int64_t round_up(std::int64_t x, std::int64_t to) {
  return (x + to - 1) / to * to;
}

struct Level {
  const char* name;
  Isa isa;
  const PanelInners* inners;
  double decode_cycles;    ///< A position of a panel: clearing, widening; counted, not timed.
  double scatter_cycles;   ///< A nonzero put in its place.
  double multiply_cycles;  ///< A position times a token.
};

class PanelKernel final : public SpmmKernel {
 public:
  explicit PanelKernel(const Level& level) : level_(level) {}
  [[nodiscard]] std::string_view name() const override { return level_.name; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }
  [[nodiscard]] Support supports(const FormatSpec&, const SpmmProblem&) const override {
    return needs_isa(level_.isa);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const double positions = static_cast<double>(p.m) * static_cast<double>(p.k);
    const double scattered = spec == format::kDense ? 0 : static_cast<double>(pattern.nnz);
    return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = positions * level_.decode_cycles + scattered * level_.scatter_cycles +
                      positions * level_.multiply_cycles * static_cast<double>(p.n)};
  }

  void run(const Matrix& a, const SpmmArgs& args, ThreadPool& pool) const override {
    const std::int64_t tokens = args.b.rows;
    const PaddedActivations x(args.b, round_up(a.cols(), 16), pool);
    const Epilogue epilogue(args);
    const auto row_bytes =
        static_cast<std::int64_t>(static_cast<std::size_t>(a.cols()) * size_of(a.dtype()));
    // Enough panels to share out, each of whole tiles of four rows.
    const std::int64_t fair = a.rows() / (4 * pool.size());
    const std::int64_t rows =
        std::clamp<std::int64_t>(std::min(fair, kPanelBytes / row_bytes), 4, kMostRows) / 4 * 4;
    pool.parallel_dynamic((a.rows() + rows - 1) / rows, 1, [&](std::int64_t i, std::int64_t) {
      Scratch raw(static_cast<std::size_t>(rows * row_bytes));
      Scratch wide(static_cast<std::size_t>(rows * kRange) * sizeof(float));
      Scratch sums(static_cast<std::size_t>(rows * tokens) * sizeof(float));
      const std::int64_t begin = i * rows;
      const std::int64_t count = std::min(rows, a.rows() - begin);
      a.read_rows(begin, begin + count, raw.as<void>());
      for (std::int64_t k = 0; k < a.cols(); k += kRange) {
        const std::int64_t columns = std::min(kRange, a.cols() - k);
        widen(raw.as<std::byte>(), a, k, columns, count, wide.as<float>());
        level_.inners->multiply({.rows = wide.as<float>(),
                                 .row_stride = kRange,
                                 .row_count = round_up(count, 4),
                                 .x = x.data() + k,
                                 .x_stride = x.stride(),
                                 .tokens = tokens,
                                 .columns = round_up(columns, 16),
                                 .sums = sums.as<float>(),
                                 .sum_stride = tokens,
                                 .add = k > 0});
      }
      store(epilogue, sums.as<float>(), begin, count, tokens);
    });
  }

 private:
  /// Columns [k, k + columns) of `count` decoded rows as f32, kRange apart, with zeros up to whole
  /// vectors and whole tiles.
  void widen(const std::byte* raw, const Matrix& a, std::int64_t k, std::int64_t columns,
             std::int64_t count, float* to) const {
    const std::size_t element = size_of(a.dtype());
    const std::int64_t whole = columns / 16 * 16;
    for (std::int64_t r = 0; r < count; ++r, to += kRange) {
      const std::byte* row = raw + static_cast<std::size_t>(r * a.cols() + k) * element;
      level_.inners->widen(row, a.dtype(), whole, to);
      if (whole == columns) continue;
      alignas(64) std::byte tail[64] = {};
      std::memcpy(tail, row + static_cast<std::size_t>(whole) * element,
                  static_cast<std::size_t>(columns - whole) * element);
      level_.inners->widen(tail, a.dtype(), 16, to + whole);
    }
    for (std::int64_t r = count; r < round_up(count, 4); ++r, to += kRange)
      std::fill_n(to, round_up(columns, 16), 0.0F);
  }

  /// sums[row][token] to the results, through one token's rows at a time.
  static void store(const Epilogue& epilogue, const float* sums, std::int64_t begin,
                    std::int64_t count, std::int64_t tokens) {
    float column[kMostRows];
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t r = 0; r < count; ++r) column[r] = sums[r * tokens + t];
      epilogue.store(t, begin, column, count);
    }
  }

  Level level_;
};

}  // namespace

std::span<const SpmmKernel* const> panel_kernels() {
  static const PanelKernel avx512({"panel.avx512", Isa::kAvx512, &kPanelAvx512, 0.3, 1.5, 0.04});
  static const PanelKernel avx2({"panel.avx2", Isa::kAvx2, &kPanelAvx2, 0.4, 1.5, 0.08});
  static const PanelKernel portable(
      {"panel.portable", Isa::kPortable, &kPanelPortable, 1.5, 2.0, 0.5});
  static const SpmmKernel* const kernels[] = {&avx512, &avx2, &portable};
  return kernels;
}

}  // namespace rarefy
