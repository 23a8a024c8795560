// SpMM on bitmaps for more than 16 tokens: bitmap.amx.panels. Panels of two strips of 16 outputs by
// a range of K are decoded to scratch in L2, each while the one before is multiplied.
#include "ops/spmm/cpu/bitmap_gemm.h"

#include <algorithm>

#include "base/check.h"
#include "formats/bitmap.h"
#include "ops/spmm/cpu/row_blocks.h"
#include "ops/spmm/cpu/strip_panels.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

using strip::kTileBytes;

constexpr std::int64_t kSumBytes = 1 << 20;

/// One thread's strips for a set of tokens.
class Worker {
 public:
  Worker(const BitmapMatrix& a, const strip::Activations& x, const Epilogue& epilogue,
         std::int64_t n)
      : a_(a), x_(x), epilogue_(epilogue), n_(n) {
    const std::int64_t tiles = a.tiles_per_block();
    range_tiles_ = strip::panel_range_tiles(x, tiles, strip::kPanelRangeBytes);
    ranges_ = (tiles + range_tiles_ - 1) / range_tiles_;
  }

  void run(std::int64_t begin, std::int64_t end) {
    strip::for_each_round(x_, begin, end, kSumBytes, strip::kStripsAStore,
                          [this](std::int64_t from, std::int64_t to) { run_round(from, to); });
  }

 private:
  void run_round(std::int64_t begin, std::int64_t end) {
    const std::int64_t strips = end - begin;
    const std::int64_t pairs = (strips + 1) / 2;
    const std::int64_t strip_floats = strip::strip_floats(x_);
    Scratch sums_storage(
        strip::huge_page_bytes(static_cast<std::size_t>(strips * strip_floats) * sizeof(float)));
    Scratch streams(static_cast<std::size_t>(strips) * sizeof(const std::byte*));
    Scratch decoded(static_cast<std::size_t>(4 * range_tiles_ * kTileBytes));
    auto* sums = sums_storage.as<float>();
    const auto** stream = streams.as<const std::byte*>();
    for (std::int64_t s = 0; s < strips; ++s) stream[s] = a_.block(begin + s);

    // Units follow each other pair after pair, range after range; panel u lies in half u % 2.
    const auto panel_of = [&](std::int64_t u) {
      const std::int64_t s = u % pairs * 2;
      const std::int64_t first = u / pairs * range_tiles_;
      strip::BitmapPanel panel{};
      panel.strips = static_cast<std::int32_t>(std::min<std::int64_t>(2, strips - s));
      for (std::int32_t i = 0; i < panel.strips; ++i) panel.from[i] = stream[s + i];
      panel.to = decoded.as<std::byte>() + u % 2 * 2 * range_tiles_ * kTileBytes;
      panel.strip_stride = range_tiles_ * kTileBytes;
      panel.tiles = std::min(range_tiles_, a_.tiles_per_block() - first);
      return panel;
    };
    const auto keep_streams = [&](std::int64_t u, const strip::BitmapPanel& panel) {
      for (std::int32_t i = 0; i < panel.strips; ++i) stream[u % pairs * 2 + i] = panel.from[i];
    };
    const std::int64_t units = pairs * ranges_;
    strip::BitmapPanel panel = panel_of(0);
    strip::decode_bitmap_amx(panel);
    keep_streams(0, panel);
    for (std::int64_t u = 0; u < units; ++u) {
      const strip::BitmapPanel& now = panel;
      const std::int64_t s = u % pairs * 2;
      const strip::Unit unit = strip::panel_unit(now.to, now.strip_stride, u / pairs * range_tiles_,
                                                 now.tiles, now.strips, sums + s * strip_floats);
      // The last unit has nothing left to decode beside it.
      strip::BitmapPanel next = u + 1 < units ? panel_of(u + 1) : strip::BitmapPanel{};
      strip::run_bitmap_amx(unit, x_, next);
      if (u + 1 < units) keep_streams(u + 1, next);
      panel = next;
    }
    strip::store_all_sums(epilogue_, sums, begin, end, x_, n_, a_.rows());
  }

  const BitmapMatrix& a_;
  const strip::Activations& x_;
  const Epilogue& epilogue_;
  std::int64_t n_, ranges_, range_tiles_;
};

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
    const strip::PanelCounts counts(p);
    const double products = counts.products * strip::PanelCounts::kProductCycles;
    const double decode = counts.tiles * counts.turns * 16 * 3.7;
    return {
        .bytes = counts.turns * estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
        .cycles = std::max(products, decode) + 0.5 * std::min(products, decode) + counts.around};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const BitmapMatrix&>(matrix);
    const std::uint64_t* offsets = a.offsets().data();
    strip::for_each_turn(
        args, a.tiles_per_block(), pool, [&](const auto& x, const auto& epilogue, auto n) {
          pool.run([&](int worker) {
            Worker(a, x, epilogue, n)
                .run(cut_by_bytes(offsets, a.row_blocks(), worker, pool.size()),
                     cut_by_bytes(offsets, a.row_blocks(), worker + 1, pool.size()));
          });
        });
  }
};

}  // namespace

std::span<const SpmmKernel* const> bitmap_panel_kernels() {
  static const BitmapAmxPanels amx;
  static const SpmmKernel* const kernels[] = {&amx};
  return kernels;
}

}  // namespace rarefy
