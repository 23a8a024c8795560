// Window weights at small N: every token passes over the weights anew, from L2 after the first.
#include "formats/window.h"

#include <cmath>

#include "ops/spmm/cpu/activations.h"
#include "ops/spmm/cpu/row_blocks.h"
#include "ops/spmm/cpu/window_inner.h"
#include "ops/spmm/kernel.h"

namespace rarefy {
namespace {

constexpr std::int64_t kMaxTokens = 16;

/// bf16 activations are one part as they are; others keep 16 bits of mantissa in two.
int parts(DType activations, Precision precision) {
  return activations == DType::kBF16 || precision == Precision::kBf16 ? 1 : 2;
}

/// Steps that a uniform pattern takes for one block and window: the longest of its rows' lists.
/// The largest of R binomials lies about z standard deviations above the mean, z = 2.07 for 32 rows
/// and 2.35 for 64.
double steps_of_window(double density, DType dtype) {
  const double mean = WindowMatrix::kWindow * density;
  const double z = WindowMatrix::block_rows(dtype) == 32 ? 2.07 : 2.35;
  const double longest = std::min(128.0, mean + z * std::sqrt(mean * std::max(0.0, 1.0 - density)));
  const double per_lane = WindowMatrix::per_lane(dtype);
  return std::max(1.0, longest / per_lane + (per_lane - 1) * 0.25);
}

class WindowKernel : public SpmmKernel {
 public:
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec != format::kWindow) return Support::no("runs window weights only");
    if (p.n > kMaxTokens) return Support::no("is for N up to 16");
    return needs_isa(isa());
  }

 protected:
  static double steps(const PatternStats& pattern, const SpmmProblem& p) {
    const double blocks = std::ceil(static_cast<double>(p.m) /
                                    static_cast<double>(WindowMatrix::block_rows(p.weight)));
    const double windows = std::ceil(static_cast<double>(p.k) / WindowMatrix::kWindow);
    return blocks * windows * steps_of_window(pattern.density(), p.weight);
  }

  /// Runs `inner` on each thread's share of the blocks, cut by bytes, and stores the results.
  static void run_blocks(const WindowMatrix& a, const SpmmArgs& args, ThreadPool& pool,
                         WindowInner* inner, const void* x, std::int64_t x_stride, int x_parts) {
    const Epilogue epilogue(args);
    const std::int64_t tokens = args.b.rows;
    const std::int64_t height = WindowMatrix::block_rows(a.dtype());
    pool.run([&](int worker) {
      const std::uint64_t* offsets = a.offsets().data();
      const std::int64_t first = cut_by_bytes(offsets, a.blocks(), worker, pool.size());
      const std::int64_t last = cut_by_bytes(offsets, a.blocks(), worker + 1, pool.size());
      if (first == last) return;
      Scratch sums(static_cast<std::size_t>((last - first) * tokens * height) * sizeof(float));
      inner({.stream = a.stream(),
             .offsets = offsets + first,
             .steps = a.steps().data() + first,
             .blocks = last - first,
             .x = x,
             .x_stride = x_stride,
             .tokens = tokens,
             .parts = x_parts,
             .sums = sums.as<float>()});
      store_row_blocks(epilogue, sums.as<float>(), tokens, height, a.rows(), first, last);
    });
  }
};

class WindowAvx512 final : public WindowKernel {
 public:
  [[nodiscard]] std::string_view name() const override { return "window.avx512"; }
  [[nodiscard]] Isa isa() const override { return Isa::kAvx512; }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const double step = p.weight == DType::kF32                  ? 23
                        : p.weight == DType::kF16                ? 26
                        : parts(p.activations, p.precision) == 1 ? 13
                                                                 : 21;
    return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = steps(pattern, p) * step * static_cast<double>(p.n)};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const WindowMatrix&>(matrix);
    const PaddedActivations x(args.b, a.windows() * WindowMatrix::kWindow, pool);
    const bool bf16 = a.dtype() == DType::kBF16;
    const int x_parts = bf16 ? parts(args.b.dtype, args.precision) : 2;
    const std::int64_t table_bytes = a.windows() * 256 * x_parts;
    Scratch tables(static_cast<std::size_t>(args.b.rows * table_bytes));
    const auto lay = [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        std::byte* to = tables.as<std::byte>() + t * table_bytes;
        const float* from = x.data() + t * x.stride();
        if (bf16) {
          window_tables_bf16(from, a.windows(), x_parts, to);
        } else {
          window_tables_f32(from, a.windows(), to);
        }
      }
    };
    if (args.b.rows == 1) {
      lay(0, 1);
    } else {
      pool.parallel_for(args.b.rows, lay);
    }
    WindowInner* inner = bf16                       ? window_bf16_avx512
                         : a.dtype() == DType::kF16 ? window_f16_avx512
                                                    : window_f32_avx512;
    run_blocks(a, args, pool, inner, tables.as<std::byte>(), table_bytes, x_parts);
  }
};

/// What reads activations as they are, in f32.
struct Plain {
  std::string_view name;
  Isa isa;
  WindowInner *bf16, *f16, *f32;
  double step_cycles, nonzero_cycles;  ///< Of one token; measured.
  double decode_cycles;                ///< Of a nonzero, once for all tokens.
};

class WindowPlain final : public WindowKernel {
 public:
  explicit WindowPlain(const Plain& level) : level_(level) {}
  [[nodiscard]] std::string_view name() const override { return level_.name; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const auto n = static_cast<double>(p.n);
    const auto nnz = static_cast<double>(pattern.nnz);
    return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = n * steps(pattern, p) * level_.step_cycles +
                      nnz * (level_.decode_cycles + n * level_.nonzero_cycles)};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const WindowMatrix&>(matrix);
    const PaddedActivations x(args.b, a.windows() * WindowMatrix::kWindow, pool);
    WindowInner* inner = a.dtype() == DType::kBF16  ? level_.bf16
                         : a.dtype() == DType::kF16 ? level_.f16
                                                    : level_.f32;
    run_blocks(a, args, pool, inner, x.data(),
               x.stride() * static_cast<std::int64_t>(sizeof(float)), 1);
  }

 private:
  Plain level_;
};

}  // namespace

std::span<const SpmmKernel* const> window_kernels() {
  static const WindowAvx512 avx512;
  static const WindowPlain avx2(
      {"window.avx2", Isa::kAvx2, window_bf16_avx2, window_f16_avx2, window_f32_avx2, 60, 0, 0});
  static const WindowPlain portable({"window.portable", Isa::kPortable, window_bf16_portable,
                                     window_f16_portable, window_f32_portable, 10, 2, 4});
  static const SpmmKernel* const kernels[] = {&avx512, &avx2, &portable};
  return kernels;
}

}  // namespace rarefy
