#include "ops/spmm/calibrate_device.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/cache_folder.h"
#include "base/check.h"
#include "base/measure_lock.h"
#include "ops/spmm/calibration/calibrate_blocks.h"
#include "ops/spmm/cuda/device_calibration.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

/// A weight in host memory, as searches take it.
class HostWeight {
 public:
  HostWeight(const RowSource& from, ThreadPool& pool)
      : values_(static_cast<std::size_t>(from.rows() * from.cols()) * size_of(from.dtype())),
        source_({values_.data(), from.dtype(), from.rows(), from.cols(), from.cols()}) {
    const std::size_t row_bytes = static_cast<std::size_t>(from.cols()) * size_of(from.dtype());
    pool.parallel_for(from.rows(), [&](std::int64_t begin, std::int64_t end) {
      from.read_rows(begin, end, values_.data() + static_cast<std::size_t>(begin) * row_bytes);
    });
    pattern_ = pattern_stats(source_, pool);
    weight_ = {
        .source = &source_, .pattern = &pattern_, .csr = pack(source_, format::kCsr32, pool)};
  }
  HostWeight(const HostWeight&) = delete;
  HostWeight& operator=(const HostWeight&) = delete;
  [[nodiscard]] const gpu::Weight& weight() const { return weight_; }

 private:
  Buffer values_;
  DenseSource source_;
  PatternStats pattern_;
  gpu::Weight weight_;
};

/// A search's fastest kernel among some families.
struct Fastest {
  std::string kernel;
  double us = kNever;
};

class DeviceSideTimer final : public SideTimer {
 public:
  DeviceSideTimer(const CalibrateOptions& options, const cuda::Stream& stream, ThreadPool& pool)
      : options_(options), stream_(stream), pool_(pool) {}

  /// Compiles what will be timed, on all cores at once: one kernel after the other would take
  /// longer than all timings.
  void compile_ahead(Progress& progress) {
    std::map<std::string, cuda::Source> sources;  // By text: many kernels serve several problems.
    const auto add = [&](const Checkerboard& weight, bool with_sparse) {
      const PatternStats pattern = pattern_stats(weight, pool_);
      for (const DType dtype : options_.dtypes) {
        for (const std::int64_t n : options_.ns) {
          dtype_ = dtype;
          std::vector<gpu::Candidate> all = ranked(pattern, problem(n), kBlockKernels, kMost);
          if (with_sparse) {
            for (gpu::Candidate& c : ranked(pattern, rest_problem(n), kSparseKernels, 1))
              all.push_back(std::move(c));
          }
          for (gpu::Candidate& c : all)
            if (!c.source.text.empty()) sources.try_emplace(cuda::expand(c.source), c.source);
        }
      }
    };
    for (const auto& block : options_.blocks) {
      const bool first = block == options_.blocks.front();
      for (const double sparsity : options_.sparsities) {
        if (!first && sparsity != options_.sparsities.front()) continue;
        add({options_, options_.dtypes.front(), block, 1 - sparsity}, first);
      }
      add({options_, options_.dtypes.front(), block, 1 - options_.sparsities.front(), kFewBlocks},
          false);
    }
    std::vector<const cuda::Source*> list;
    list.reserve(sources.size());
    for (const auto& [text, source] : sources) list.push_back(&source);
    const auto at_once = static_cast<std::size_t>(2 * pool_.size());
    for (std::size_t done = 0; done < list.size(); done += at_once) {
      progress.update("compile", static_cast<std::int64_t>(done), std::ssize(list), "");
      compile(std::span(list).subspan(done, std::min(at_once, list.size() - done)));
    }
    progress.update("compile", std::ssize(list), std::ssize(list), "");
  }

  void take(const Checkerboard& weight) override {
    if (weight.block() != block_ || weight.dtype() != dtype_) few_.reset();
    dtype_ = weight.dtype();
    density_ = weight.density();
    block_ = weight.block();
    half_.emplace(weight, pool_);
    half_positions_ = weight.positions();
    if (few_ || is_known(weight)) return;
    const Checkerboard few(options_, dtype_, block_, density_, kFewBlocks);
    few_.emplace(few, pool_);
    few_positions_ = few.positions();
  }

  SideTimes time(std::int64_t n) override {
    SideTimes times = dense_side(n);
    times.sparse_us = sparse_us(n);
    times.whole_us = whole_us(n);
    return times;
  }

 private:
  static constexpr int kFewBlocks = 8;  ///< One in so many: tells what does not depend on blocks.

  using Kind = std::tuple<DType, std::int64_t, std::pair<int, int>>;

  [[nodiscard]] bool is_known(const Checkerboard& weight) const {
    return std::ranges::all_of(options_.ns, [&](std::int64_t n) {
      return dense_sides_.contains({weight.dtype(), n, weight.block()});
    });
  }

  [[nodiscard]] gpu::Problem problem(std::int64_t n) const {
    return {.m = options_.rows,
            .k = options_.cols,
            .n = n,
            .weight = dtype_,
            .activations = dtype_,
            .output = dtype_};
  }

  [[nodiscard]] gpu::Problem rest_problem(std::int64_t n) const {
    gpu::Problem rest = problem(n);
    rest.residual = true;
    return rest;
  }

  /// Kernels of blocks multiply zeros like anything else: one density tells of all.
  SideTimes dense_side(std::int64_t n) {
    const Kind kind{dtype_, n, block_};
    if (const auto known = dense_sides_.find(kind); known != dense_sides_.end())
      return known->second;
    const double half = fastest(*half_, problem(n), kBlockKernels, kMost).us;
    const double few = fastest(*few_, problem(n), kBlockKernels, kMost).us;
    require_found(half, "blocks", n);
    require_found(few, "blocks", n);
    SideTimes times;
    // Where few blocks are no faster than many, all of it is the call.
    const double share = 1 - few_positions_ / half_positions_;
    times.dense_us = share > 0 ? std::clamp((half - few) / share, 0.0, half) : half;
    times.call_us = half - times.dense_us;
    dense_sides_.emplace(kind, times);
    return times;
  }

  /// The fastest of what a hybrid's rest runs by, one kernel of a family. Which that is depends on
  /// the density and hardly on where the blocks lie: it is searched once.
  double sparse_us(std::int64_t n) {
    const gpu::Problem rest = rest_problem(n);
    std::string& kernel = sparse_kernels_[{dtype_, n, density_}];
    Fastest found = kernel.empty() ? Fastest{} : by_name(*half_, rest, kernel);
    if (found.us == kNever) found = fastest(*half_, rest, kSparseKernels, 1);
    require_found(found.us, "nonzeros", n);
    kernel = found.kernel;
    return found.us;
  }

  double whole_us(std::int64_t n) {
    const auto [at, is_new] = whole_.try_emplace({dtype_, n});
    if (!is_new) return at->second;
    const double us = fastest(*half_, problem(n), {{"dense"}}, 2).us;
    return at->second = us < kNever ? us : 0;
  }

  static void require_found(double us, std::string_view of, std::int64_t n) {
    if (us == kNever)
      fail(ErrorKind::kUnsupported, "calibrate: no kernel for {} runs on this GPU with {} tokens",
           of, n);
  }

  using Names = std::vector<std::string>;

  /// The best estimates among candidates whose names begin so, `most` for each name.
  [[nodiscard]] std::vector<gpu::Candidate> ranked(const PatternStats& pattern,
                                                   const gpu::Problem& problem, const Names& names,
                                                   std::size_t most) const {
    std::vector<gpu::Candidate> best;
    for (const std::string& name : names) {
      std::vector<gpu::Candidate> found =
          gpu::enumerate(problem, pattern, stream_.device().facts(), name);
      found.resize(std::min(most, found.size()));
      std::ranges::move(found, std::back_inserter(best));
    }
    return best;
  }

  /// One candidate; `kNever` where there is none of that name for this weight.
  [[nodiscard]] Fastest by_name(const HostWeight& host, const gpu::Problem& problem,
                                const std::string& name) const {
    const std::optional<gpu::Candidate> c =
        gpu::find_candidate(problem, *host.weight().pattern, stream_.device().facts(), name);
    return c ? fastest_of(host, problem, {*c}) : Fastest{};
  }

  /// The fastest of the best estimates.
  Fastest fastest(const HostWeight& host, const gpu::Problem& problem, const Names& names,
                  std::size_t most) const {
    return fastest_of(host, problem, ranked(*host.weight().pattern, problem, names, most));
  }

  [[nodiscard]] Fastest fastest_of(const HostWeight& host, const gpu::Problem& problem,
                                   const std::vector<gpu::Candidate>& candidates) const {
    const gpu::Weight& weight = host.weight();
    Fastest best;
    for (const gpu::Candidate& c : candidates) {
      try {
        const double us = gpu::measure(*c.build(weight, stream_), problem, stream_, kBudgetUs).us;
        if (us < best.us) best = {c.name, us};
      } catch (const Error& error) {
        if (error.kind() == ErrorKind::kInternal) throw;  // The device is in an unknown state.
      }
    }
    return best;
  }

  /// What does not compile throws again when it is built.
  void compile(std::span<const cuda::Source* const> sources) const {
    const cuda::Arch arch = stream_.device().facts().arch();
    pool_.parallel_dynamic(std::ssize(sources), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        try {
          (void)cuda::compile(*sources[static_cast<std::size_t>(i)], arch);
        } catch (const Error&) {
          continue;
        }
      }
    });
  }

  inline static const Names kBlockKernels{"blocks"};
  inline static const Names kSparseKernels{"sliced", "composed", "gather"};
  static constexpr std::size_t kMost = 3;    ///< Kernels of blocks that are timed.
  static constexpr double kBudgetUs = 10e3;  ///< Of one kernel's replays.

  const CalibrateOptions& options_;
  const cuda::Stream& stream_;
  ThreadPool& pool_;
  DType dtype_ = DType::kBF16;
  double density_ = 0;
  std::pair<int, int> block_;
  std::optional<HostWeight> half_, few_;  ///< Of the blocks.
  double half_positions_ = 0, few_positions_ = 0;
  std::map<Kind, SideTimes> dense_sides_;
  std::map<std::tuple<DType, std::int64_t, double>, std::string> sparse_kernels_;
  std::map<std::pair<DType, std::int64_t>, double> whole_;
};

}  // namespace

CalibrateOptions device_calibrate_options() {
  return {.dtypes = {DType::kBF16, DType::kF16},
          .ns = {128, 512, 4096},
          .sparsities = {0.8, 0.95, 0.99, 0.995, 0.999},
          .blocks = {{64, 64}, {128, 128}, {32, 32}, {256, 256}, {512, 512}, {32, 512}, {512, 32}},
          .rows = 4096,
          .cols = 4096};
}

BlockCalibration calibrate_device(const CalibrateOptions& options, Progress& progress,
                                  ThreadPool& pool) {
  check_calibration(options, {DType::kBF16, DType::kF16});
  require_calibration_folder(cache_folder());
  const cuda::Device& device = cuda::Device::get();
  device.bind();
  const cuda::Stream stream(device);
  const MeasureLock measuring(cache_folder());
  DeviceSideTimer timer(options, stream, pool);
  timer.compile_ahead(progress);
  const BlockCalibration found =
      calibrate_blocks(options, gpu::device_calibration_key(device.facts()), timer, progress);
  gpu::keep_device_calibration(device.facts(), found);
  return found;
}

std::optional<BlockCalibration> device_calibration(std::string* reason) {
  return gpu::kept_device_calibration(cuda::Device::get().facts(), reason);
}

BlockCurve device_curve(DType dtype, std::int64_t n) {
  const cuda::DeviceFacts& device = cuda::Device::get().facts();
  const DType half = dtype == DType::kF32 ? DType::kF16 : dtype;
  return *gpu::calibration_or_ordinary(device, half).curve(half, n);
}

}  // namespace rarefy
