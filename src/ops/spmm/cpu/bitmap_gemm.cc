// SpMM on bitmaps for more than 16 tokens: bitmap.amx.panels.
#include <algorithm>

#include "base/check.h"
#include "formats/bitmap.h"
#include "ops/spmm/cpu/bitmap_panels.h"
#include "ops/spmm/cpu/row_blocks.h"

namespace rarefy {
namespace {

class BitmapAmxPanels final : public SpmmKernel {
 public:
  [[nodiscard]] std::string_view name() const override { return "bitmap.amx.panels"; }
  [[nodiscard]] Isa isa() const override { return Isa::kAmx; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec != format::kBitmap) return Support::no("runs bitmap weights only");
    if (p.weight != DType::kBF16)
      return Support::no(fmt::format("needs bf16 weights, got {}", to_string(p.weight)));
    if (p.n <= 16) return Support::no("is for N from 17 on");
    return needs_isa(Isa::kAmx);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    // 3.7 cycles a vector of 32 weights. Half of the shorter of decoding and multiplying hides
    // behind the other.
    const strip::PanelCounts counts(p, strip::kManyPanelTokens);
    const double products = counts.products * strip::PanelCounts::kProductCycles;
    const double decode = counts.tiles * counts.turns * 16 * 3.7;
    return {
        .bytes = counts.turns * estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
        .cycles = std::max(products, decode) + 0.5 * std::min(products, decode) + counts.around};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const BitmapMatrix&>(matrix);
    const std::uint64_t* offsets = a.offsets().data();
    const strip::TileStrips strips{a.block(0), offsets, a.tiles_per_block()};
    strip::for_each_turn(
        args, a.tiles_per_block(), pool,
        [&](const auto& x, const auto& epilogue, auto n) {
          pool.run([&](int worker) {
            strip::BitmapPanels(strips, x).run(
                cut_by_bytes(offsets, a.row_blocks(), worker, pool.size()),
                cut_by_bytes(offsets, a.row_blocks(), worker + 1, pool.size()),
                [&](std::int64_t first, std::int64_t last, const float* sums) {
                  strip::store_all_sums(epilogue, sums, first, last, x, n, a.rows());
                });
          });
        },
        strip::kManyPanelTokens);
  }
};

}  // namespace

std::span<const SpmmKernel* const> bitmap_panel_kernels() {
  static const BitmapAmxPanels amx;
  static const SpmmKernel* const kernels[] = {&amx};
  return kernels;
}

}  // namespace rarefy
