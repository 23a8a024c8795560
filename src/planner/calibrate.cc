// Measuring blocks on both kinds of a CPU's units. One side stores the blocks whole (bf16: as tiles
// of a hybrid, f32: as blocks), the other as lists. What a call takes without any block is taken
// off the dense side only: activations are packed for it anyway, while the sparse side of a hybrid
// packs them once more.
#include <algorithm>
#include <chrono>
#include <map>
#include <vector>

#include "base/measure_lock.h"
#include "ops/spmm/calibration/calibrate_blocks.h"
#include "planner/planner_impl.h"
#include "planner/sampling.h"
#include "rarefy/spmm.h"

namespace rarefy {
namespace {

/// How either side stores blocks.
FormatSpec dense_side(DType dtype) {
  return dtype == DType::kBF16 ? format::hybrid(32, 32, 0) : format::bsr(32, 32);
}

/// The format's own kernel of the highest instruction set, not whatever a pattern seems to suit;
/// nullptr, the default one, where there is none.
const SpmmKernel* own_kernel(const FormatSpec& spec, const SpmmProblem& problem) {
  const std::string_view family = spec.format == Format::kHybrid ? "hybrid."
                                  : spec.format == Format::kBsr  ? "bsr."
                                                                 : "csb.";
  const SpmmKernel* best = nullptr;
  for (const SpmmKernel* kernel : spmm_kernels()) {
    if (kernel->name().starts_with(family) && kernel->supports(spec, problem) &&
        (best == nullptr || kernel->isa() > best->isa()))
      best = kernel;
  }
  return best;
}

/// Activations of so many tokens, results, and what a call of the dense side takes without a block.
struct Tokens {
  Buffer b, c;
  double empty_us = 0;
};

class CpuSideTimer final : public SideTimer {
 public:
  CpuSideTimer(const CalibrateOptions& options, ThreadPool& pool)
      : options_(options), pool_(pool) {}

  void take(const Checkerboard& weight) override {
    if (weight.dtype() != dtype_) tokens_.clear();
    dtype_ = weight.dtype();
    dense_ = pack(weight, dense_side(dtype_), pool_);
    sparse_ = pack(weight, format::kCsb, pool_);
  }

  SideTimes time(std::int64_t n) override {
    Tokens& tokens = tokens_of(n);
    return {.dense_us = us(*dense_, tokens, n) - tokens.empty_us,
            .sparse_us = us(*sparse_, tokens, n),
            .call_us = tokens.empty_us};
  }

 private:
  Tokens& tokens_of(std::int64_t n) {
    const auto [at, is_new] = tokens_.try_emplace(n);
    Tokens& tokens = at->second;
    if (!is_new) return tokens;
    std::vector<float> values(static_cast<std::size_t>(n * options_.cols));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(static_cast<int>(i * 37 % 61) - 30) / 32.0F;
    tokens.b = Buffer(values.size() * size_of(dtype_));
    convert_elements(values.data(), DType::kF32, tokens.b.data(), dtype_, values.size());
    tokens.c = Buffer(static_cast<std::size_t>(n * options_.rows) * sizeof(float));
    const Checkerboard none(options_, dtype_, options_.blocks[0], 0);
    tokens.empty_us = us(*pack(none, dense_side(dtype_), pool_), tokens, n);
    return tokens;
  }

  [[nodiscard]] double us(const Matrix& a, Tokens& tokens, std::int64_t n) const {
    SpmmArgs args;
    args.b = {tokens.b.data(), dtype_, n, options_.cols, options_.cols};
    args.c = {tokens.c.data(), DType::kF32, n, options_.rows, options_.rows};
    args.precision = dtype_ == DType::kF32 ? Precision::kExact : Precision::kBf16;
    const SpmmKernel* kernel = own_kernel(a.spec(), {.m = options_.rows,
                                                     .k = options_.cols,
                                                     .n = n,
                                                     .weight = dtype_,
                                                     .activations = dtype_,
                                                     .output = DType::kF32,
                                                     .precision = args.precision,
                                                     .threads = pool_.size()});
    std::vector<double> times;
    for (int round = 0; round <= options_.rounds; ++round) {
      pool_.run([](int) {});
      const auto begin = std::chrono::steady_clock::now();
      spmm(a, args, pool_, kernel);
      const auto end = std::chrono::steady_clock::now();
      if (round > 0)
        times.push_back(std::chrono::duration<double, std::micro>(end - begin).count());
    }
    return planning::median(times);
  }

  const CalibrateOptions& options_;
  ThreadPool& pool_;
  DType dtype_ = DType::kBF16;
  MatrixPtr dense_, sparse_;
  std::map<std::int64_t, Tokens> tokens_;  ///< By n, of the dtype.
};

}  // namespace

BlockCalibration Planner::calibrate(const CalibrateOptions& options, Progress& progress) {
  check_calibration(options, {DType::kBF16, DType::kF32});
  const std::scoped_lock lock(impl_->mutex);
  const std::filesystem::path& folder = impl_->cache.directory();
  require_calibration_folder(folder);  // Before half a minute's work.
  const MeasureLock measuring(folder);
  const CalibrationKey key = cpu_calibration_key(impl_->pool.size());
  CpuSideTimer timer(options, impl_->pool);
  const BlockCalibration found = calibrate_blocks(options, key, timer, progress);
  store_calibration(folder, key.file, found);
  impl_->calibration = found;
  impl_->calibration_read = true;
  impl_->calibration_reason.clear();
  return found;
}

}  // namespace rarefy
