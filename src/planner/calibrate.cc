// Measuring blocks on both kinds of units. A weight has every other block of its grid, all of one
// density; one side stores the blocks whole (bf16: as tiles of a hybrid, f32: as blocks), the other
// as lists. What a call takes without any block is taken off the dense side only: activations are
// packed for it anyway, while the sparse side of a hybrid packs them once more.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <vector>

#include "base/check.h"
#include "planner/calibration_file.h"
#include "planner/planner_impl.h"
#include "planner/sampling.h"
#include "rarefy/spmm.h"

namespace rarefy {
namespace {

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16];
  std::tm utc{};
  std::strftime(text, sizeof text, "%Y-%m-%d", gmtime_r(&now, &utc));
  return text;
}

std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

/// Every other block, each position kept with probability `density`.
class Checkerboard final : public RowSource {
 public:
  Checkerboard(const CalibrateOptions& options, DType dtype, std::pair<int, int> block,
               double density)
      : options_(options), dtype_(dtype), block_(block), density_(density) {}
  [[nodiscard]] std::int64_t rows() const override { return options_.rows; }
  [[nodiscard]] std::int64_t cols() const override { return options_.cols; }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    std::vector<float> row(static_cast<std::size_t>(cols()));
    const auto limit = static_cast<std::uint64_t>(density_ * 0x1p53);
    auto* to = static_cast<std::byte*>(out);
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t c = 0; c < cols(); ++c) {
        const std::uint64_t bits = mix(static_cast<std::uint64_t>(r * cols() + c));
        const bool kept = has_block(r, c) && (bits >> 11) < limit;
        row[static_cast<std::size_t>(c)] = kept ? ((bits & 1) != 0 ? 0.5F : -0.75F) : 0.0F;
      }
      convert_elements(row.data(), DType::kF32, to, dtype_, row.size());
      to += row.size() * size_of(dtype_);
    }
  }
  /// Positions of the blocks that are there.
  [[nodiscard]] double positions() const {
    double sum = 0;
    for (std::int64_t r = 0; r < rows(); r += block_.first) {
      for (std::int64_t c = 0; c < cols(); c += block_.second) {
        if (has_block(r, c))
          sum += static_cast<double>(std::min<std::int64_t>(block_.first, rows() - r) *
                                     std::min<std::int64_t>(block_.second, cols() - c));
      }
    }
    return sum;
  }

 private:
  [[nodiscard]] bool has_block(std::int64_t r, std::int64_t c) const {
    return density_ > 0 && (r / block_.first + c / block_.second) % 2 == 0;
  }

  const CalibrateOptions& options_;
  DType dtype_;
  std::pair<int, int> block_;
  double density_;
};

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

class Bench {
 public:
  Bench(const CalibrateOptions& options, DType dtype, std::int64_t n, ThreadPool& pool)
      : options_(options), pool_(pool), n_(n), dtype_(dtype) {
    std::vector<float> values(static_cast<std::size_t>(n * options.cols));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(static_cast<int>(i * 37 % 61) - 30) / 32.0F;
    b_ = Buffer(values.size() * size_of(dtype));
    convert_elements(values.data(), DType::kF32, b_.data(), dtype, values.size());
    c_ = Buffer(static_cast<std::size_t>(n * options.rows) * sizeof(float));
  }
  double us(const RowSource& weight, const FormatSpec& spec) {
    const MatrixPtr a = pack(weight, spec, pool_);
    SpmmArgs args;
    args.b = {b_.data(), dtype_, n_, options_.cols, options_.cols};
    args.c = {c_.data(), DType::kF32, n_, options_.rows, options_.rows};
    args.precision = dtype_ == DType::kF32 ? Precision::kExact : Precision::kBf16;
    const SpmmKernel* kernel = own_kernel(spec, {.m = options_.rows,
                                                 .k = options_.cols,
                                                 .n = n_,
                                                 .weight = dtype_,
                                                 .activations = dtype_,
                                                 .output = DType::kF32,
                                                 .precision = args.precision,
                                                 .threads = pool_.size()});
    std::vector<double> times;
    for (int round = 0; round <= options_.rounds; ++round) {
      pool_.run([](int) {});
      const auto begin = std::chrono::steady_clock::now();
      spmm(*a, args, pool_, kernel);
      const auto end = std::chrono::steady_clock::now();
      if (round > 0)
        times.push_back(std::chrono::duration<double, std::micro>(end - begin).count());
    }
    return planning::median(times);
  }

 private:
  const CalibrateOptions& options_;
  ThreadPool& pool_;
  std::int64_t n_;
  DType dtype_;
  Buffer b_, c_;
};

void check(const CalibrateOptions& options) {
  require(!options.dtypes.empty() && !options.ns.empty() && !options.sparsities.empty() &&
              !options.blocks.empty(),
          "calibrate: expected dtypes, n, sparsities and blocks, got none of one");
  for (const DType dtype : options.dtypes)
    require(dtype == DType::kBF16 || dtype == DType::kF32,
            "calibrate: dtypes: expected bf16 or f32, got {}", to_string(dtype));
  for (const std::int64_t n : options.ns)
    require(n > 16, "calibrate: n: expected at least 17, got {}", n);
  for (const double s : options.sparsities)
    require(s >= 0 && s < 1, "calibrate: sparsities: expected 0 to below 1, got {}", s);
  for (const auto& [rows, cols] : options.blocks)
    require(rows > 0 && cols > 0 && rows % 32 == 0 && cols % 32 == 0,
            "calibrate: blocks: expected multiples of 32x32, got {}x{}", rows, cols);
  require(options.rows > 0 && options.cols > 0 && options.rounds > 0,
          "calibrate: rows, cols, rounds: expected at least 1, got {}, {}, {}", options.rows,
          options.cols, options.rounds);
}

}  // namespace

BlockCalibration Planner::calibrate(const CalibrateOptions& options, Progress& progress) {
  check(options);
  const std::scoped_lock lock(impl_->mutex);
  planning::require_calibration_folder(impl_->cache.directory());  // Before half a minute's work.
  const planning::MeasureLock measuring(impl_->cache.directory());
  const planning::CalibrationKey key = planning::calibration_key(impl_->pool.size());
  BlockCalibration found{.device = key.device, .build = key.build, .date = today()};
  const auto total = std::ssize(options.dtypes) * std::ssize(options.ns) *
                     std::ssize(options.blocks) * std::ssize(options.sparsities);
  for (const DType dtype : options.dtypes) {
    for (const std::int64_t n : options.ns) {
      Bench bench(options, dtype, n, impl_->pool);
      const double empty_us =
          bench.us(Checkerboard(options, dtype, options.blocks[0], 0), dense_side(dtype));
      for (const auto& block : options.blocks) {
        for (const double sparsity : options.sparsities) {
          progress.update(
              "calibrate", std::ssize(found.timings), total,
              fmt::format("{} N={} blocks {}x{}", to_string(dtype), n, block.first, block.second));
          const Checkerboard weight(options, dtype, block, 1 - sparsity);
          const double unit = weight.positions() / 1024;
          if (unit <= 0) continue;
          const double dense_us = bench.us(weight, dense_side(dtype)) - empty_us;
          const double sparse_us = bench.us(weight, format::kCsb);
          found.timings.push_back({.dtype = dtype,
                                   .n = n,
                                   .block_rows = block.first,
                                   .block_cols = block.second,
                                   .density = 1 - sparsity,
                                   .dense_ns = std::max(dense_us, 0.0) * 1e3 / unit,
                                   .sparse_ns = sparse_us * 1e3 / unit});
        }
      }
    }
  }
  progress.update("calibrate", total, total, "");
  found.curves = fit_curves(found.timings);
  planning::store_calibration(impl_->cache.directory(), found);
  impl_->calibration = found;
  impl_->calibration_read = true;
  impl_->calibration_reason.clear();
  return found;
}

}  // namespace rarefy
