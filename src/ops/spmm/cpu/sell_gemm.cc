// SpMM on sliced ELL for many tokens: sell.amx.panels. Entries are spread over tiles in L2, two
// slices by a range of K at a time, and multiplied there: the weight is stored once, small, and
// serves single tokens and prompts alike. Spreading one panel while another is multiplied gained
// nothing: the scatter and the tile loads wait for the same cache.
#include "ops/spmm/cpu/sell_gemm.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "formats/sell.h"
#include "ops/spmm/cpu/row_blocks.h"
#include "ops/spmm/cpu/strip_panels.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

using strip::kTileBytes;
using strip::kTileK;

/// Ranges are wider than for other formats (600 KiB), because the lanes of a slice reach the end of
/// one at different steps, and some are walked twice: 1.31 against 1.39 ms at 4096x2048, N=128.
constexpr std::int64_t kRangeBytes = 1100 << 10;
constexpr std::int64_t kSumBytes = 256 << 10;
constexpr std::int64_t kScope = SellMatrix::kScope;
constexpr std::int64_t kScopeSlices = kScope / SellMatrix::kLanes;

/// Slices of one thread: whole scopes, because the rows of a scope are stored together.
std::pair<std::int64_t, std::int64_t> slices_of(const SellMatrix& a, int worker, int workers) {
  const auto cut = [&](int part) {
    const std::int64_t slice = cut_by_bytes(a.offsets().data(), a.slices(), part, workers);
    return part == workers ? a.slices() : slice / kScopeSlices * kScopeSlices;
  };
  return {cut(worker), cut(worker + 1)};
}

std::int64_t tiles_of(const SellMatrix& a) {
  return (a.cols() + kTileK - 1) / kTileK;
}

std::int64_t scope_rows(const SellMatrix& a, std::int64_t scope) {
  return std::min(kScope, a.rows() - scope * kScope);
}

/// One thread's slices for a set of tokens.
class Worker {
 public:
  Worker(const SellMatrix& a, const strip::Activations& x, const Epilogue& epilogue, std::int64_t n)
      : a_(a),
        x_(x),
        epilogue_(epilogue),
        n_(n),
        tiles_(tiles_of(a)),
        range_tiles_(strip::panel_range_tiles(x, tiles_, kRangeBytes)),
        strip_floats_(strip::strip_floats(x)) {}

  void run(std::int64_t begin, std::int64_t end) {
    strip::for_each_round(x_, begin, end, kSumBytes, kScopeSlices,
                          [this](std::int64_t from, std::int64_t to) { run_round(from, to); });
  }

 private:
  void run_round(std::int64_t begin, std::int64_t end) {
    const std::int64_t strips = end - begin;
    // One token tile leaves registers for four strips.
    const std::int64_t together = x_.token_tiles == 1 ? 4 : 2;
    Scratch sums_storage(
        strip::huge_page_bytes(static_cast<std::size_t>(strips * strip_floats_) * sizeof(float)));
    Scratch cursor_storage(static_cast<std::size_t>(strips) * sizeof(strip::SellCursor));
    Scratch tiles(static_cast<std::size_t>(together * range_tiles_ * kTileBytes));
    auto* sums = sums_storage.as<float>();
    auto* cursors = cursor_storage.as<strip::SellCursor>();
    for (std::int64_t s = 0; s < strips; ++s) {
      const auto slice = static_cast<std::size_t>(begin + s);
      cursors[s] = {a_.stream() + a_.offsets()[slice], a_.stream() + a_.offsets()[slice + 1], {}};
    }

    for (std::int64_t first = 0; first < tiles_; first += range_tiles_) {
      const std::int64_t count = std::min(range_tiles_, tiles_ - first);
      for (std::int64_t s = 0; s < strips;) {
        const std::int64_t left = std::min(together, strips - s);
        const strip::Unit unit =
            strip::panel_unit(tiles.as<std::byte>(), range_tiles_ * kTileBytes, first, count,
                              left == 3 ? 2 : left, sums + s * strip_floats_);
        for (std::int32_t i = 0; i < unit.strips; ++i)
          strip::spread_sell(cursors[s + i], static_cast<int>(a_.gap_bytes()), unit.first_k, count,
                             tiles.as<std::byte>() + i * unit.strip_stride);
        strip::run_amx(unit, x_, nullptr);
        s += unit.strips;
      }
    }
    for (std::int64_t s = 0; s < strips; s += kScopeSlices)
      store_scope((begin + s) / kScopeSlices, sums + s * strip_floats_,
                  std::min(kScopeSlices, strips - s));
  }

  /// Results of the rows of a scope, back in their order.
  void store_scope(std::int64_t scope, const float* sums, std::int64_t strips) {
    const std::int64_t first_row = scope * kScope;
    const std::int64_t rows = scope_rows(a_, scope);
    std::int32_t source[kScope] = {};
    for (std::int64_t i = 0; i < strips * SellMatrix::kLanes; ++i) {
      const std::uint32_t row = a_.order()[static_cast<std::size_t>(first_row + i)];
      if (row != SellMatrix::kNoRow)
        source[row - static_cast<std::uint32_t>(first_row)] = static_cast<std::int32_t>(i);
    }
    const bool direct = epilogue_.is_plain_f32() && rows == kScope;
    float sorted[kScope];
    for (std::int64_t t = 0; t < n_; ++t) {
      const float* from =
          sums + t / x_.tokens * strip::kSumTileFloats + t % x_.tokens * strip::kOutputs;
      float* to = direct ? epilogue_.c().row<float>(t) + first_row : sorted;
      strip::unsort_scope(from, strip_floats_, strips, source, to);
      if (!direct) epilogue_.store(t, first_row, sorted, rows);
    }
  }

  const SellMatrix& a_;
  const strip::Activations& x_;
  const Epilogue& epilogue_;
  std::int64_t n_, tiles_, range_tiles_, strip_floats_;
};

class SellAmxPanels final : public SpmmKernel {
 public:
  [[nodiscard]] std::string_view name() const override { return "sell.amx.panels"; }
  [[nodiscard]] Isa isa() const override { return Isa::kAmx; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != Format::kSell) return Support::no("runs sliced ELL weights only");
    if (p.weight != DType::kBF16)
      return Support::no(fmt::format("needs bf16 weights, got {}", to_string(p.weight)));
    if (p.n < 2) return Support::no("is for N from 2 on");
    return needs_isa(Isa::kAmx);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    // Counted in L2: 15 cycles to spread a step of 16 entries, 60 to clear a tile.
    const strip::PanelCounts counts(p);
    const double bytes = estimated_bytes(spec, pattern, p.weight);
    const double steps = bytes / (SellMatrix::kLanes * (2 + spec.index_bits / 8.0));
    const double spread = counts.turns * (steps * 15 + counts.tiles * 60);
    return {
        .bytes = counts.turns * bytes + activation_bytes(p),
        .cycles = counts.products * strip::PanelCounts::kProductCycles + spread + counts.around};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const SellMatrix&>(matrix);
    strip::for_each_turn(args, tiles_of(a), pool, [&](const auto& x, const auto& epilogue, auto n) {
      pool.run([&](int worker) {
        const auto [begin, end] = slices_of(a, worker, pool.size());
        Worker(a, x, epilogue, n).run(begin, end);
      });
    });
  }
};

}  // namespace

std::span<const SpmmKernel* const> sell_panel_kernels() {
  static const SellAmxPanels amx;
  static const SpmmKernel* const kernels[] = {&amx};
  return kernels;
}

}  // namespace rarefy
