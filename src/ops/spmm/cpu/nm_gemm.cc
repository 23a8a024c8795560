// SpMM on N:M weights for more than one token: nm.amx.panels. Panels of two strips of 16 outputs by
// a range of K are decoded to scratch in L2, each while the one before is multiplied.
#include "ops/spmm/cpu/nm_gemm.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "formats/nm.h"
#include "ops/spmm/cpu/strip_panels.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

using strip::kTileBytes;
using strip::kTileK;

constexpr std::int64_t kSumBytes = 256 << 10;
/// Activations that are all read again for each pair of strips, so that rows are read end to end.
constexpr std::int64_t kActivationBytes = 1100 << 10;

std::int64_t tiles_of(std::int64_t cols) {
  return (cols + kTileK - 1) / kTileK;
}

strip::NmRows rows_of(const NmMatrix& a) {
  return {.values = static_cast<const std::byte*>(a.values()),
          .indices = reinterpret_cast<const std::byte*>(a.indices()),
          .row_bytes = a.row_slots() * static_cast<std::int64_t>(size_of(a.dtype())),
          .row_index_bytes = a.row_index_bytes(),
          .rows = a.rows(),
          .n = a.spec().n,
          .m = a.spec().m,
          .index_width = NmMatrix::index_width(a.spec().m)};
}

/// One thread's strips for a set of tokens.
class Worker {
 public:
  Worker(const NmMatrix& a, const strip::Activations& x, const Epilogue& epilogue, std::int64_t n)
      : rows_(rows_of(a)), x_(x), epilogue_(epilogue), n_(n), tiles_(tiles_of(a.cols())) {
    const std::int64_t token_bytes = std::int64_t{x.token_tiles} * x.parts * kTileBytes;
    by_rows_ = tiles_ * token_bytes <= kActivationBytes;
    // Even, so that tiles can be decoded in pairs.
    range_tiles_ = (strip::panel_range_tiles(x, tiles_, strip::kPanelRangeBytes) + 1) / 2 * 2;
    ranges_ = (tiles_ + range_tiles_ - 1) / range_tiles_;
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
    Scratch decoded(static_cast<std::size_t>(4 * range_tiles_ * kTileBytes));
    auto* sums = sums_storage.as<float>();

    // Units follow each other pair after pair, range after range, or the other way round where all
    // activations stay in L2: rows are then read from end to end. Panel u lies in half u % 2.
    const auto pair_of = [&](std::int64_t u) { return by_rows_ ? u / ranges_ : u % pairs; };
    const auto range_of = [&](std::int64_t u) { return by_rows_ ? u % ranges_ : u / pairs; };
    const auto panel_of = [&](std::int64_t u) {
      const std::int64_t s = pair_of(u) * 2;
      const std::int64_t first = range_of(u) * range_tiles_;
      return strip::NmPanel{
          .row = (begin + s) * strip::kOutputs,
          .first = first,
          .tiles = std::min(range_tiles_, tiles_ - first),
          .to = decoded.as<std::byte>() + u % 2 * 2 * range_tiles_ * kTileBytes,
          .strip_stride = range_tiles_ * kTileBytes,
          .strips = static_cast<std::int32_t>(std::min<std::int64_t>(2, strips - s))};
    };
    const std::int64_t units = pairs * ranges_;
    strip::NmPanel panel = panel_of(0);
    strip::decode_nm_amx(rows_, panel);
    for (std::int64_t u = 0; u < units; ++u) {
      const strip::Unit unit =
          strip::panel_unit(panel.to, panel.strip_stride, panel.first, panel.tiles, panel.strips,
                            sums + pair_of(u) * 2 * strip_floats);
      // The last unit has nothing left to decode beside it.
      const strip::NmPanel next = u + 1 < units ? panel_of(u + 1) : strip::NmPanel{};
      const strip::NmPanel ahead = u + 2 < units ? panel_of(u + 2) : strip::NmPanel{};
      const bool reads_ahead = u + 2 < units && !(by_rows_ && rows_.m == 4);
      strip::run_nm_amx(unit, x_, rows_, next, reads_ahead ? &ahead : nullptr);
      panel = next;
    }
    strip::store_all_sums(epilogue_, sums, begin, end, x_, n_, rows_.rows);
  }

  strip::NmRows rows_;
  const strip::Activations& x_;
  const Epilogue& epilogue_;
  std::int64_t n_, tiles_, ranges_, range_tiles_;
  bool by_rows_;
};

class NmAmxPanels final : public SpmmKernel {
 public:
  [[nodiscard]] std::string_view name() const override { return "nm.amx.panels"; }
  [[nodiscard]] Isa isa() const override { return Isa::kAmx; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != Format::kNm) return Support::no("runs N:M only");
    if (!std::has_single_bit(static_cast<unsigned>(spec.m)))
      return Support::no(fmt::format("needs M to be a power of two, got {}", spec.m));
    if (p.weight != DType::kBF16)
      return Support::no(fmt::format("needs bf16 weights, got {}", to_string(p.weight)));
    if (p.n < 2) return Support::no("is for N from 2 on");
    return needs_isa(Isa::kAmx);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    // Measured in whole multiplications: 7 cycles for 32 weights of 2:4, of which 3 are decoding
    // and the rest waiting for rows far apart, 3N + 12 for others; a product takes 57, as with
    // dense. Half of the shorter of the two hides behind the other.
    const strip::PanelCounts counts(p);
    const double products = counts.products * 57;
    const double vector = spec == format::nm(2, 4) ? 7 : 3 * spec.n + 12;
    const double decode = counts.tiles * counts.turns * 16 * vector;
    return {
        .bytes = counts.turns * estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
        .cycles = std::max(products, decode) + 0.5 * std::min(products, decode) + counts.around};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const NmMatrix&>(matrix);
    const std::int64_t strips = (a.rows() + strip::kOutputs - 1) / strip::kOutputs;
    strip::for_each_turn(
        args, tiles_of(a.cols()), pool, [&](const auto& x, const auto& epilogue, auto n) {
          // Pairs of strips: every row has as many bytes.
          pool.parallel_for((strips + 1) / 2, [&](std::int64_t begin, std::int64_t end) {
            Worker(a, x, epilogue, n).run(2 * begin, std::min(strips, 2 * end));
          });
        });
  }
};

}  // namespace

std::span<const SpmmKernel* const> nm_panel_kernels() {
  static const NmAmxPanels amx;
  static const SpmmKernel* const kernels[] = {&amx};
  return kernels;
}

}  // namespace rarefy
