// SpMV (N = 1) over N:M weights.
#include "formats/nm.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "ops/spmm/cpu/activations.h"
#include "ops/spmm/cpu/nm_inner.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"

namespace rarefy {
namespace {

/// Rows handed out at once: four streams of eight.
constexpr std::int64_t kChunkRows = 32;

struct Level {
  const char* name;
  Isa isa;
  const NmInners* inners;
  int step_slots;        ///< Slots of a row that a step takes.
  double window_cycles;  ///< A step of one row whose activations come out of registers; measured.
  double gather_cycles;  ///< … and out of memory.
  int max_window;        ///< Columns that the registers hold.
};

/// Columns that a step reaches when it holds whole groups, else 0.
std::int64_t window_of(const FormatSpec& spec, int step_slots) {
  return step_slots % spec.n == 0 ? step_slots / spec.n * spec.m : 0;
}

class NmKernel final : public SpmmKernel {
 public:
  explicit NmKernel(const Level& level) : level_(level) {}
  [[nodiscard]] std::string_view name() const override { return level_.name; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }

  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != Format::kNm) return Support::no("runs N:M only");
    if (p.n != 1) return Support::no("is for N = 1");
    if (p.k > std::int64_t{1} << 30) return Support::no("gathers with 32-bit columns");
    return needs_isa(level_.isa);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const double steps = static_cast<double>(p.m) *
                         static_cast<double>(NmMatrix::row_slots(spec, p.k)) / level_.step_slots;
    const std::int64_t window = window_of(spec, level_.step_slots);
    const bool in_registers = window != 0 && window <= level_.max_window;
    return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = steps * (in_registers ? level_.window_cycles : level_.gather_cycles) +
                      20 * static_cast<double>(p.m)};
  }

  void run(const Matrix& a, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& nm = dynamic_cast<const NmMatrix&>(a);
    const FormatSpec& spec = a.spec();
    const std::int64_t slots = nm.row_slots();
    const PaddedActivations x(args.b, (slots / spec.n + 1) * spec.m + 64, pool);
    const Epilogue epilogue(args);

    const std::int64_t period = std::lcm<std::int64_t>(spec.n, 16);
    std::vector<std::int32_t> columns(static_cast<std::size_t>(period));
    for (std::int64_t s = 0; s < period; ++s)
      columns[static_cast<std::size_t>(s)] = static_cast<std::int32_t>(s / spec.n * spec.m);

    const std::size_t element = size_of(a.dtype());
    NmInner* inner = a.dtype() == DType::kBF16  ? level_.inners->bf16
                     : a.dtype() == DType::kF16 ? level_.inners->f16
                                                : level_.inners->f32;
    const std::int64_t chunks = (a.rows() + kChunkRows - 1) / kChunkRows;
    pool.parallel_dynamic(chunks, 1, [&](std::int64_t chunk, std::int64_t) {
      float sums[kChunkRows];
      const std::int64_t row = chunk * kChunkRows;
      const std::int64_t rows = std::min(kChunkRows, a.rows() - row);
      inner({.values = static_cast<const std::byte*>(nm.values()) +
                       static_cast<std::size_t>(row * slots) * element,
             .indices = nm.indices() + row * nm.row_index_bytes(),
             .row_slots = slots,
             .row_index_bytes = nm.row_index_bytes(),
             .rows = rows,
             .index_width = NmMatrix::index_width(spec.m),
             .window = window_of(spec, level_.step_slots),
             .columns = columns.data(),
             .period = period,
             .period_columns = period / spec.n * spec.m,
             .x = x.data(),
             .sums = sums});
      epilogue.store(0, row, sums, rows);
    });
  }

 private:
  Level level_;
};

}  // namespace

std::span<const SpmmKernel* const> nm_kernels() {
  static const NmKernel avx512({"nm.avx512", Isa::kAvx512, &kNmAvx512, 16, 3.5, 10, 64});
  static const NmKernel avx2({"nm.avx2", Isa::kAvx2, &kNmAvx2, 8, 5, 9, 16});
  static const SpmmKernel* const kernels[] = {&avx512, &avx2};
  return kernels;
}

}  // namespace rarefy
