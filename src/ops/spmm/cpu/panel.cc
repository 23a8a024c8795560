// Kernels that run every format at every shape: a panel of rows is decoded to dense f32 and
// multiplied while it lies in L2. They need nothing of a format but `read_rows`.
#include <algorithm>

#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

/// Rows a panel holds: 4 rows of 14336 weights in f32 are 224 KiB, well inside L2.
constexpr std::int64_t kPanelRows = 4;

/// B as f32, K apart: B itself when it is so already, else a copy in `storage`.
class FloatActivations {
 public:
  FloatActivations(const ConstMatrixRef& b, ThreadPool& pool)
      : storage_(b.dtype == DType::kF32 ? 0 : static_cast<std::size_t>(b.rows * b.cols) * 4),
        ref_(b) {
    if (b.dtype == DType::kF32) return;
    float* copy = storage_.as<float>();
    const std::size_t element = size_of(b.dtype);
    pool.parallel_for(b.rows, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const auto* from = static_cast<const std::byte*>(b.data) +
                           static_cast<std::size_t>(t * b.row_stride) * element;
        convert_elements(from, b.dtype, copy + t * b.cols, DType::kF32,
                         static_cast<std::size_t>(b.cols));
      }
    });
    ref_ = {copy, DType::kF32, b.rows, b.cols, b.cols};
  }
  [[nodiscard]] const float* token(std::int64_t t) const { return ref_.row<float>(t); }

 private:
  Scratch storage_;
  ConstMatrixRef ref_;
};

/// Dot products of four rows (cols apart) with x: eight partial sums a row, added up in a fixed
/// order.
void dot_four_rows(const float* rows, const float* x, std::int64_t cols, float* sums) {
  constexpr int kLanes = 8;
  float partial[kPanelRows][kLanes] = {};
  std::int64_t k = 0;
  for (; k + kLanes <= cols; k += kLanes) {
    for (int r = 0; r < kPanelRows; ++r) {
      const float* row = rows + r * cols + k;
      for (int lane = 0; lane < kLanes; ++lane) partial[r][lane] += row[lane] * x[k + lane];
    }
  }
  for (int lane = 0; k < cols; ++k, ++lane) {
    for (int r = 0; r < kPanelRows; ++r) partial[r][lane] += rows[r * cols + k] * x[k];
  }
  for (int r = 0; r < kPanelRows; ++r) {
    const float* p = partial[r];
    sums[r] = ((p[0] + p[4]) + (p[1] + p[5])) + ((p[2] + p[6]) + (p[3] + p[7]));
  }
}

class PanelPortable final : public SpmmKernel {
 public:
  [[nodiscard]] std::string_view name() const override { return "panel.portable"; }
  [[nodiscard]] Isa isa() const override { return Isa::kPortable; }
  [[nodiscard]] Support supports(const FormatSpec&, const SpmmProblem&) const override {
    return Support::yes();
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const double positions = static_cast<double>(p.m) * static_cast<double>(p.k);
    // Writing zeros and converting take about a cycle a position; scattering a nonzero two more;
    // SSE2 multiplies and adds four lanes in about two cycles.
    const double decode =
        positions * (spec == format::kDense ? 1.0 : 1.5) + 2.0 * static_cast<double>(pattern.nnz);
    return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = decode + 0.5 * positions * static_cast<double>(p.n)};
  }

  void run(const Matrix& a, const SpmmArgs& args, ThreadPool& pool) const override {
    const std::int64_t rows = a.rows();
    const std::int64_t cols = a.cols();
    const std::int64_t tokens = args.b.rows;
    const FloatActivations x(args.b, pool);
    const Epilogue epilogue(args);
    const std::int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
    pool.parallel_dynamic(panels, 4, [&](std::int64_t first, std::int64_t last) {
      Scratch raw(static_cast<std::size_t>(kPanelRows * cols) * size_of(a.dtype()));
      Scratch decoded(static_cast<std::size_t>(kPanelRows * cols) * sizeof(float));
      auto* panel = decoded.as<float>();
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t begin = i * kPanelRows;
        const std::int64_t count = std::min(kPanelRows, rows - begin);
        a.read_rows(begin, begin + count, raw.as<void>());
        convert_elements(raw.as<void>(), a.dtype(), panel, DType::kF32,
                         static_cast<std::size_t>(count * cols));
        std::fill(panel + count * cols, panel + kPanelRows * cols, 0.0F);
        for (std::int64_t t = 0; t < tokens; ++t) {
          float sums[kPanelRows];
          dot_four_rows(panel, x.token(t), cols, sums);
          epilogue.store(t, begin, sums, count);
        }
      }
    });
  }
};

}  // namespace

std::span<const SpmmKernel* const> panel_kernels() {
  static const PanelPortable portable;
  static const SpmmKernel* const kernels[] = {&portable};
  return kernels;
}

}  // namespace rarefy
