// Sliced ELL weights at small N: every token passes over the weights anew, from L2 after the first.
#include "formats/sell.h"

#include <cmath>

#include "ops/spmm/cpu/activations.h"
#include "ops/spmm/cpu/row_blocks.h"
#include "ops/spmm/cpu/sell_inner.h"
#include "ops/spmm/kernel.h"

namespace rarefy {
namespace {

constexpr std::int64_t kMaxTokens = 16;
constexpr std::int64_t kLanes = SellMatrix::kLanes;

struct Level {
  const char* name;
  Isa isa;
  SellTable& inner;
  double cycles_per_step;  ///< 16 entries, one token; measured in L2.
};

class SellKernel final : public SpmmKernel {
 public:
  explicit SellKernel(const Level& level) : level_(level) {}
  [[nodiscard]] std::string_view name() const override { return level_.name; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }

  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != Format::kSell) return Support::no("runs sliced ELL weights only");
    if (p.n > kMaxTokens) return Support::no("is for N up to 16");
    return needs_isa(level_.isa);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const double bytes = estimated_bytes(spec, pattern, p.weight);
    const double step_bytes =
        kLanes * (static_cast<double>(size_of(p.weight)) + spec.index_bits / 8.0);
    return {.bytes = bytes + activation_bytes(p),
            .cycles = bytes / step_bytes * level_.cycles_per_step * static_cast<double>(p.n)};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const SellMatrix&>(matrix);
    const std::int64_t tokens = args.b.rows;
    const PaddedActivations x(args.b, a.cols(), pool);
    const int dtype = a.dtype() == DType::kBF16 ? 0 : a.dtype() == DType::kF16 ? 1 : 2;
    SellInner* inner = level_.inner[dtype][a.spec().index_bits == 8 ? 0 : 1];
    // Sums by lane go to their rows here: rows of a scope may lie in the slices of two threads.
    Scratch rows(static_cast<std::size_t>(a.rows() * tokens) * sizeof(float));
    auto* by_row = rows.as<float>();
    pool.run([&](int worker) {
      const std::uint64_t* offsets = a.offsets().data();
      const std::int64_t first = cut_by_bytes(offsets, a.slices(), worker, pool.size());
      const std::int64_t last = cut_by_bytes(offsets, a.slices(), worker + 1, pool.size());
      if (first == last) return;
      Scratch sums(static_cast<std::size_t>((last - first) * tokens * kLanes) * sizeof(float));
      inner({.stream = a.stream(),
             .offsets = offsets + first,
             .slices = last - first,
             .x = x.data(),
             .x_stride = x.stride(),
             .tokens = tokens,
             .sums = sums.as<float>()});
      for (std::int64_t i = 0; i < last - first; ++i) {
        for (std::int64_t lane = 0; lane < kLanes; ++lane) {
          const std::uint32_t row =
              a.order()[static_cast<std::size_t>((first + i) * kLanes + lane)];
          if (row == SellMatrix::kNoRow) continue;
          for (std::int64_t t = 0; t < tokens; ++t)
            by_row[t * a.rows() + row] = sums.as<float>()[(i * tokens + t) * kLanes + lane];
        }
      }
    });
    const Epilogue epilogue(args);
    for (std::int64_t t = 0; t < tokens; ++t) epilogue.store(t, 0, by_row + t * a.rows(), a.rows());
  }

 private:
  Level level_;
};

}  // namespace

std::span<const SpmmKernel* const> sell_kernels() {
  static const SellKernel avx512({"sell.avx512", Isa::kAvx512, sell_avx512, 10});
  static const SellKernel avx2({"sell.avx2", Isa::kAvx2, sell_avx2, 14});
  static const SellKernel portable({"sell.portable", Isa::kPortable, sell_portable, 40});
  static const SpmmKernel* const kernels[] = {&avx512, &avx2, &portable};
  return kernels;
}

}  // namespace rarefy
