// SpMM on bitmaps for more than 16 tokens: bitmap.amx.panels. Panels of two strips of 16 outputs by
// a range of K are decoded to scratch in L2, each while the one before is multiplied.
#include "ops/spmm/cpu/bitmap_gemm.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "formats/bitmap.h"
#include "ops/spmm/cpu/row_blocks.h"
#include "ops/spmm/cpu/strip_activations.h"
#include "ops/spmm/cpu/strip_sums.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

constexpr std::int64_t kTokensAtOnce = 256;
constexpr std::int64_t kTileBytes = 1024;
constexpr std::int64_t kTileK = 32;
/// Activations of a range of K, and the most tiles of k a panel has: what stays in a 2 MiB L2.
constexpr std::int64_t kRangeBytes = 600 << 10;
constexpr std::int64_t kMostTiles = 64;
constexpr std::int64_t kSumBytes = 1 << 20;

/// One thread's strips for a set of tokens.
class Worker {
 public:
  Worker(const BitmapMatrix& a, const strip::Activations& x, const Epilogue& epilogue,
         std::int64_t n)
      : a_(a), x_(x), epilogue_(epilogue), n_(n) {
    const std::int64_t tiles = a.tiles_per_block();
    const std::int64_t most = std::clamp<std::int64_t>(
        kRangeBytes / (std::int64_t{x.token_tiles} * x.parts * kTileBytes), 1, kMostTiles);
    ranges_ = (tiles + most - 1) / most;
    range_tiles_ = (tiles + ranges_ - 1) / ranges_;
  }

  void run(std::int64_t begin, std::int64_t end) {
    if (begin == end) return;
    strip::amx_begin(x_.tokens);
    const std::int64_t strip_bytes =
        std::int64_t{x_.token_tiles} * strip::kSumTileFloats * std::int64_t{sizeof(float)};
    const std::int64_t round =
        std::max<std::int64_t>(1, kSumBytes / strip_bytes / strip::kStripsAStore) *
        strip::kStripsAStore;
    for (std::int64_t s = begin; s < end; s += round) run_round(s, std::min(end, s + round));
    strip::amx_end();
  }

 private:
  void run_round(std::int64_t begin, std::int64_t end) {
    const std::int64_t strips = end - begin;
    const std::int64_t pairs = (strips + 1) / 2;
    const std::int64_t strip_floats = std::int64_t{x_.token_tiles} * strip::kSumTileFloats;
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
      const strip::Unit unit{.values = now.to,
                             .columns = nullptr,
                             .block_stride = 0,
                             .strip_stride = now.strip_stride,
                             .width = now.tiles * kTileK,
                             .first_k = u / pairs * range_tiles_ * kTileK,
                             .blocks = 1,
                             .strips = now.strips,
                             .sums = sums + s * strip_floats,
                             .add = u >= pairs};
      // The last unit has nothing left to decode beside it.
      strip::BitmapPanel next = u + 1 < units ? panel_of(u + 1) : strip::BitmapPanel{};
      strip::run_bitmap_amx(unit, x_, next);
      if (u + 1 < units) keep_streams(u + 1, next);
      panel = next;
    }
    for (std::int64_t s = 0; s < strips; s += strip::kStripsAStore)
      strip::store_sums(epilogue_, sums + s * strip_floats, begin + s,
                        std::min(strip::kStripsAStore, strips - s), x_, n_, a_.rows());
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
    // 3.7 cycles a vector of 32 weights; a product takes 57, as with dense tiles. Half of the
    // shorter of the two hides behind the other.
    const double tiles =
        std::ceil(static_cast<double>(p.m) / 16) * std::ceil(static_cast<double>(p.k) / kTileK);
    const double passes = std::ceil(static_cast<double>(p.n) / kTokensAtOnce);
    const double parts = strip::amx_parts(p.activations, p.precision);
    const double products = tiles * std::ceil(static_cast<double>(p.n) / 16) * parts * 57;
    const double decode = tiles * passes * 16 * 3.7;
    const auto n = static_cast<double>(p.n);
    return {.bytes = passes * estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = std::max(products, decode) + 0.5 * std::min(products, decode) +
                      0.25 * n * static_cast<double>(p.k) * parts +
                      0.3 * n * static_cast<double>(p.m)};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const BitmapMatrix&>(matrix);
    const std::int64_t padded_k = a.tiles_per_block() * kTileK;
    for (std::int64_t t = 0; t < args.b.rows; t += kTokensAtOnce) {
      const SpmmArgs part = strip::tokens_of(args, t, std::min(args.b.rows, t + kTokensAtOnce));
      const strip::AmxActivations x(part.b, args.precision, padded_k, pool);
      const Epilogue epilogue(part);
      pool.run([&](int worker) {
        const std::uint64_t* offsets = a.offsets().data();
        Worker(a, x.get(), epilogue, part.b.rows)
            .run(cut_by_bytes(offsets, a.row_blocks(), worker, pool.size()),
                 cut_by_bytes(offsets, a.row_blocks(), worker + 1, pool.size()));
      });
    }
  }
};

}  // namespace

std::span<const SpmmKernel* const> bitmap_panel_kernels() {
  static const BitmapAmxPanels amx;
  static const SpmmKernel* const kernels[] = {&amx};
  return kernels;
}

}  // namespace rarefy
