// Row-major dense weights at small N: bound by memory, so the weights are read once (once for every
// four tokens) in several streams. Activations stay f32.
#include "formats/dense_rows.h"

#include <algorithm>
#include <cmath>

#include "ops/spmm/cpu/activations.h"
#include "ops/spmm/cpu/dense_rows_inner.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"

namespace rarefy {
namespace {

constexpr std::int64_t kMaxTokens = 16;

/// One kernel: an instruction set and its three inner loops.
struct Level {
  const char* name;
  Isa isa;
  DenseRowsInner *bf16, *f16, *f32;
  double cycles_per_weight;  ///< Without memory, one token; measured in L2.
  double cycles_per_token;   ///< More, for each further token.
};

class DenseRowsKernel final : public SpmmKernel {
 public:
  explicit DenseRowsKernel(const Level& level) : level_(level) {}
  [[nodiscard]] std::string_view name() const override { return level_.name; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }

  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec != format::kDense) return Support::no("runs row-major dense weights only");
    if (p.n > kMaxTokens) return Support::no("is for N up to 16");
    return needs_isa(level_.isa);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const double positions = static_cast<double>(p.m) * static_cast<double>(p.k);
    const auto n = static_cast<double>(p.n);
    // Four tokens share a pass over the weights; later passes find the job's rows in L2 or L3.
    const double passes = std::ceil(n / 4);
    return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = positions *
                      (passes * level_.cycles_per_weight + (n - passes) * level_.cycles_per_token)};
  }

  void run(const Matrix& a, const SpmmArgs& args, ThreadPool& pool) const override {
    const ConstMatrixRef& weights = dynamic_cast<const DenseRows&>(a).values();
    const std::int64_t tokens = args.b.rows;
    const PaddedActivations x(args.b, (a.cols() + 15) / 16 * 16, pool);
    const Epilogue epilogue(args);
    DenseRowsInner* inner = a.dtype() == DType::kBF16  ? level_.bf16
                            : a.dtype() == DType::kF16 ? level_.f16
                                                       : level_.f32;
    const std::size_t row_bytes =
        static_cast<std::size_t>(weights.row_stride) * size_of(weights.dtype);
    pool.parallel_for(a.rows(), [&](std::int64_t begin, std::int64_t end) {
      // Panels of rows that all tokens pass over while they lie in L2.
      const std::int64_t panel =
          tokens <= 4 ? end - begin
                      : std::max<std::int64_t>(8, (std::int64_t{512} << 10) /
                                                      static_cast<std::int64_t>(row_bytes) / 4 * 4);
      Scratch sums(static_cast<std::size_t>(std::min(panel, end - begin) * tokens) * sizeof(float));
      for (std::int64_t row = begin; row < end; row += panel) {
        const std::int64_t count = std::min(panel, end - row);
        inner({.weights = static_cast<const std::byte*>(weights.data) +
                          static_cast<std::size_t>(row) * row_bytes,
               .row_bytes = row_bytes,
               .rows = count,
               .cols = a.cols(),
               .x = x.data(),
               .x_stride = x.stride(),
               .tokens = tokens,
               .sums = sums.as<float>(),
               .sum_stride = count});
        for (std::int64_t t = 0; t < tokens; ++t)
          epilogue.store(t, row, sums.as<float>() + t * count, count);
      }
    });
  }

 private:
  Level level_;
};

}  // namespace

std::span<const SpmmKernel* const> dense_rows_kernels() {
  static const DenseRowsKernel avx512({"dense.avx512", Isa::kAvx512, dense_rows_bf16_avx512,
                                       dense_rows_f16_avx512, dense_rows_f32_avx512, 0.10, 0.04});
  static const DenseRowsKernel avx2({"dense.avx2", Isa::kAvx2, dense_rows_bf16_avx2,
                                     dense_rows_f16_avx2, dense_rows_f32_avx2, 0.25, 0.08});
  static const DenseRowsKernel portable({"dense.portable", Isa::kPortable, dense_rows_bf16_portable,
                                         dense_rows_f16_portable, dense_rows_f32_portable, 1.0,
                                         1.0});
  static const SpmmKernel* const kernels[] = {&avx512, &avx2, &portable};
  return kernels;
}

}  // namespace rarefy
