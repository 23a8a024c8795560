// SpMV (N = 1) over row lists: CSR and delta. Each stored weight gathers its activation, which lies
// in L1 or L2; the lists themselves stream from memory.
#include <algorithm>

#include "formats/csr.h"
#include "formats/delta.h"
#include "ops/spmm/cpu/activations.h"
#include "ops/spmm/cpu/gather_inner.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"

namespace rarefy {
namespace {

/// Rows handed out at once: enough for four streams of eight rows.
constexpr std::int64_t kChunkRows = 32;

struct Level {
  const char* name;
  Format format;
  Isa isa;
  const GatherInners *narrow, *wide;  ///< 16- and 32-bit columns, or 4- and 8-bit codes.
  double cycles_per_value;            ///< Lists in L2; measured.
  double cycles_per_code;             ///< … and for every code of a delta list, escapes included.
};

class GatherKernel final : public SpmmKernel {
 public:
  explicit GatherKernel(const Level& level) : level_(level) {}
  [[nodiscard]] std::string_view name() const override { return level_.name; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }

  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != level_.format)
      return Support::no(level_.format == Format::kCsr ? "runs CSR only" : "runs delta only");
    if (p.n != 1) return Support::no("is for N = 1");
    if (level_.format == Format::kDelta && p.k > 65536)
      return Support::no("keeps columns in 16 bits: needs K <= 65536");
    if (p.k > std::int64_t{1} << 31) return Support::no("gathers with 32-bit columns");
    return needs_isa(level_.isa);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const double bytes = estimated_bytes(spec, pattern, p.weight);
    const auto nnz = static_cast<double>(pattern.nnz);
    const auto rows = static_cast<double>(p.m);
    const double index_bytes = bytes - nnz * static_cast<double>(size_of(p.weight));
    const double codes = spec.format == Format::kDelta ? index_bytes * 8 / spec.index_bits : 0;
    return {.bytes = bytes + activation_bytes(p),
            .cycles = nnz * level_.cycles_per_value + codes * level_.cycles_per_code + rows * 20};
  }

  void run(const Matrix& a, const SpmmArgs& args, ThreadPool& pool) const override {
    const PaddedActivations x(args.b, a.cols(), pool);
    const Epilogue epilogue(args);
    GatherJob job{};
    const GatherInners* inners = level_.wide;
    if (level_.format == Format::kCsr) {
      const auto& csr = dynamic_cast<const CsrMatrix&>(a);
      if (a.spec().index_bits == 16) inners = level_.narrow;
      job.columns = csr.col_indices<void>();
      job.list_offsets = csr.row_offsets();
      job.values = csr.values();
      job.value_offsets = csr.row_offsets();
    } else {
      const auto& delta = dynamic_cast<const DeltaMatrix&>(a);
      if (a.spec().index_bits == 4) inners = level_.narrow;
      job.columns = delta.codes();
      job.list_offsets = delta.group_offsets();
      job.values = delta.values();
      job.value_offsets = delta.value_offsets();
    }
    job.x = x.data();
    GatherInner* inner = a.dtype() == DType::kBF16  ? inners->bf16
                         : a.dtype() == DType::kF16 ? inners->f16
                                                    : inners->f32;
    const std::int64_t chunks = (a.rows() + kChunkRows - 1) / kChunkRows;
    pool.parallel_dynamic(chunks, 1, [&](std::int64_t first, std::int64_t) {
      float sums[kChunkRows];
      GatherJob part = job;
      part.row = first * kChunkRows;
      part.rows = std::min(kChunkRows, a.rows() - part.row);
      part.sums = sums;
      inner(part);
      epilogue.store(0, part.row, sums, part.rows);
    });
  }

 private:
  Level level_;
};

}  // namespace

std::span<const SpmmKernel* const> gather_kernels() {
  static const GatherKernel csr512(
      {"csr.avx512.gather", Format::kCsr, Isa::kAvx512, &kCsr16Avx512, &kCsr32Avx512, 0.6, 0});
  static const GatherKernel csr2(
      {"csr.avx2.gather", Format::kCsr, Isa::kAvx2, &kCsr16Avx2, &kCsr32Avx2, 0.9, 0});
  static const GatherKernel delta512({"delta.avx512.gather", Format::kDelta, Isa::kAvx512,
                                      &kDelta4Avx512, &kDelta8Avx512, 0.0, 0.7});
  static const GatherKernel delta2(
      {"delta.avx2.gather", Format::kDelta, Isa::kAvx2, &kDelta4Avx2, &kDelta8Avx2, 0.0, 1.1});
  static const SpmmKernel* const kernels[] = {&delta512, &csr512, &delta2, &csr2};
  return kernels;
}

}  // namespace rarefy
