// SpMM on f16 weights for more than one token: dense_tiles.amx.halves and bitmap.amx.halves. Two
// strips of 16 outputs by a range of K are split into two bf16 parts in L2 and multiplied there:
// twice the products of bf16 weights, and still a fraction of what multiply-adds take.
#include "ops/spmm/cpu/half_gemm.h"

#include <algorithm>

#include "base/check.h"
#include "formats/bitmap.h"
#include "formats/dense_tiles.h"
#include "ops/spmm/cpu/row_blocks.h"
#include "ops/spmm/cpu/strip_panels.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

using strip::kTileBytes;

constexpr std::int64_t kSumBytes = 512 << 10;

/// The strips of either format.
struct Halves {
  const DenseTiles* dense = nullptr;
  const BitmapMatrix* bitmap = nullptr;

  explicit Halves(const Matrix& a) {
    if (a.spec().format == Format::kBitmap) {
      bitmap = &dynamic_cast<const BitmapMatrix&>(a);
    } else {
      dense = &dynamic_cast<const DenseTiles&>(a);
    }
  }
  [[nodiscard]] std::int64_t strips() const {
    return dense != nullptr ? dense->strips() : bitmap->row_blocks();
  }
  [[nodiscard]] std::int64_t tiles() const {
    return dense != nullptr ? dense->tiles_per_strip() : bitmap->tiles_per_block();
  }
  [[nodiscard]] const std::byte* strip(std::int64_t s) const {
    return dense != nullptr ? dense->strip(s) : bitmap->block(s);
  }
  [[nodiscard]] strip::SplitHalves* split() const {
    return dense != nullptr ? strip::split_dense_amx : strip::split_bitmap_amx;
  }
  /// First strip of a part with its share of the bytes.
  [[nodiscard]] std::int64_t cut(int part, int parts) const {
    if (dense != nullptr) return strips() * part / parts;
    return cut_by_bytes(bitmap->offsets().data(), strips(), part, parts);
  }
};

/// One thread's strips for a set of tokens.
class Worker {
 public:
  Worker(const Halves& a, const strip::Activations& x, const Epilogue& epilogue, std::int64_t m,
         std::int64_t n)
      : a_(a),
        x_(x),
        epilogue_(epilogue),
        m_(m),
        n_(n),
        range_tiles_(strip::panel_range_tiles(x, a.tiles(), strip::kPanelRangeBytes)) {}

  void run(std::int64_t begin, std::int64_t end) {
    strip::for_each_round(x_, begin, end, kSumBytes, strip::kStripsAStore,
                          [this](std::int64_t from, std::int64_t to) { run_round(from, to); });
  }

 private:
  void run_round(std::int64_t begin, std::int64_t end) {
    const std::int64_t strips = end - begin;
    const std::int64_t strip_floats = strip::strip_floats(x_);
    const std::int64_t part_bytes = 2 * range_tiles_ * kTileBytes;
    Scratch sums_storage(
        strip::huge_page_bytes(static_cast<std::size_t>(strips * strip_floats) * sizeof(float)));
    Scratch streams(static_cast<std::size_t>(strips) * sizeof(const std::byte*));
    Scratch tiles(static_cast<std::size_t>(2 * part_bytes));
    auto* sums = sums_storage.as<float>();
    const auto** stream = streams.as<const std::byte*>();
    for (std::int64_t s = 0; s < strips; ++s) stream[s] = a_.strip(begin + s);

    for (std::int64_t first = 0; first < a_.tiles(); first += range_tiles_) {
      const std::int64_t count = std::min(range_tiles_, a_.tiles() - first);
      for (std::int64_t s = 0; s < strips; s += 2) {
        strip::Unit unit =
            strip::panel_unit(tiles.as<std::byte>(), range_tiles_ * kTileBytes, first, count,
                              std::min<std::int64_t>(2, strips - s), sums + s * strip_floats);
        for (std::int64_t i = 0; i < unit.strips; ++i) {
          std::byte* upper = tiles.as<std::byte>() + i * unit.strip_stride;
          stream[s + i] = a_.split()(
              {.from = stream[s + i], .tiles = count, .upper = upper, .lower = upper + part_bytes});
        }
        strip::run_amx(unit, x_, nullptr);
        unit.values += part_bytes;
        unit.add = true;
        strip::run_amx(unit, x_, nullptr);
      }
    }
    strip::store_all_sums(epilogue_, sums, begin, end, x_, n_, m_);
  }

  const Halves& a_;
  const strip::Activations& x_;
  const Epilogue& epilogue_;
  std::int64_t m_, n_, range_tiles_;
};

class HalvesAmx final : public SpmmKernel {
 public:
  HalvesAmx(std::string_view name, Format format) : name_(name), format_(format) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] Isa isa() const override { return Isa::kAmx; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != format_ || (format_ == Format::kDense && spec.block_rows == 0))
      return Support::no(format_ == Format::kDense ? "needs a dense weight in tiles"
                                                   : "runs bitmap weights only");
    if (p.weight != DType::kF16)
      return Support::no(fmt::format("needs f16 weights, got {}", to_string(p.weight)));
    if (p.n < 2) return Support::no("is for N from 2 on");
    return needs_isa(Isa::kAmx);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    // Measured: 19 cycles a vector of 32 weights (13 from a bitmap, whose bytes are fewer) and 22 a
    // product. Both are set higher by as much as the costs of multiply-adds are.
    const strip::PanelCounts counts(p);
    const double split = counts.tiles * counts.turns * 16 * (format_ == Format::kDense ? 24 : 15);
    return {.bytes = counts.turns * estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = 2 * counts.products * 40 + split + counts.around};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const Halves a(matrix);
    strip::for_each_turn(args, a.tiles(), pool, [&](const auto& x, const auto& epilogue, auto n) {
      pool.run([&](int worker) {
        Worker(a, x, epilogue, matrix.rows(), n)
            .run(a.cut(worker, pool.size()), a.cut(worker + 1, pool.size()));
      });
    });
  }

 private:
  std::string_view name_;
  Format format_;
};

}  // namespace

std::span<const SpmmKernel* const> half_kernels() {
  static const HalvesAmx dense("dense_tiles.amx.halves", Format::kDense);
  static const HalvesAmx bitmap("bitmap.amx.halves", Format::kBitmap);
  static const SpmmKernel* const kernels[] = {&dense, &bitmap};
  return kernels;
}

}  // namespace rarefy
