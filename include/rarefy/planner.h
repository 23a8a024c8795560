// Which format and which kernel for this weight on this machine: candidates, estimate, measurement,
// plan, cache. docs/planner.md tells how a plan is found.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "rarefy/calibration.h"
#include "rarefy/matrix.h"
#include "rarefy/progress.h"
#include "rarefy/spmm.h"

namespace rarefy {

/// One use of a weight: how many columns come at once, and how often.
struct Workload {
  std::int64_t n = 1;
  double weight =
      1.0;  ///< Share of the objective Σ weight·time/time_dense; decode (n=1) usually counts most.
};

struct PlanRequest {
  std::vector<Workload> workloads{{1, 1.0}};
  DType activations = DType::kF32;
  DType output = DType::kF32;
  Precision precision = Precision::kExact;
  std::size_t memory_budget =
      std::numeric_limits<std::size_t>::max();  ///< Bytes that the packed weight may take.
  std::vector<FormatSpec> formats;   ///< Empty: every format of the search space. Otherwise only
                                     ///< these (dense, in rows or tiles, is always added).
  std::vector<std::string> kernels;  ///< Empty: every kernel. Otherwise only these (by name), to
                                     ///< compare whole models; the weight's N must all be covered.
  int measure_best =
      4;  ///< How many (format, kernel) pairs to measure for each n; 0 trusts the estimate alone.
  double time_budget_s =
      2.0;  ///< Measuring stops after this long; what was not measured keeps its estimate.
  std::size_t working_set =
      std::numeric_limits<std::size_t>::max();  ///< Bytes that a program touches between two uses
                                                ///< of the weight (all weights of a model, dense):
                                                ///< decides whether it comes from memory or cache.
};

/// A (format, kernel) pair that was looked at for one n, and what became of it.
struct Candidate {
  FormatSpec format;
  std::string kernel;  ///< Empty when the weight cannot be packed in the format.
  std::int64_t n = 0;
  std::size_t bytes = 0;  ///< Of the packed weight; estimated until packed.
  double estimate_us =
      0;  ///< From bytes and cycles over this machine's measured ceilings; 0 when rejected before.
  double measured_us = 0;  ///< Median, scaled to the whole weight; 0 when not measured.
  double noise = 0;        ///< Relative standard error of measured_us.
  bool chosen = false;
  std::string reason;  ///< Why it was rejected ("slower: 812 us against 640 us", "needs AMX …");
                       ///< empty when chosen.

  [[nodiscard]] double time_us() const { return measured_us > 0 ? measured_us : estimate_us; }
};

/// The kernel of a plan for a range of N.
struct PlanStep {
  std::int64_t n_min = 1, n_max = std::numeric_limits<std::int64_t>::max();
  std::string kernel;
  double time_us = 0,
         dense_us = 0;  ///< At the workload's n; measured where measured, else estimated.
};

struct Plan {
  FormatSpec format;
  std::vector<PlanStep> steps;  ///< Ascending, covering 1…∞.
  std::size_t bytes = 0, dense_bytes = 0;
  std::vector<Candidate> candidates;  ///< Everything considered, in the order tried.
  bool from_cache = false;
  std::int64_t rows = -1, cols = -1, nnz = -1;  ///< Of the weight; -1: unknown.

  [[nodiscard]] const PlanStep& step(std::int64_t n) const;
};

/// The plan and its candidates as a table for people: chosen ones first, then the measured, the
/// estimated and the rejected, each with its reason. Ends with a newline.
std::string describe(const Plan& plan);

/// What this machine can do, measured once and cached beside the plans: the two ceilings of every
/// estimate.
struct MachineCeilings {
  double dram_gb_per_s = 0;   ///< Read with several streams a thread, all threads of the pool.
  double cache_gb_per_s = 0;  ///< From the last-level cache, or L2 where a weight fits there.
  double ghz = 0;             ///< Sustained clock under vector load.
};

/// The two floors of one run on this machine, and the higher of them.
struct Roofline {
  double bytes = 0, cycles = 0;  ///< As the kernel counts them (`SpmmKernel::cost`).
  double memory_us = 0;          ///< bytes over the memory ceiling
  double compute_us = 0;         ///< cycles over threads × clock
  [[nodiscard]] double floor_us() const { return memory_us > compute_us ? memory_us : compute_us; }
};

/// Floors of `kernel` on a weight of this pattern packed in `spec`, coming from memory. Nothing
/// runs.
Roofline roofline(const SpmmKernel& kernel, const FormatSpec& spec, const PatternStats& pattern,
                  const SpmmProblem& problem, const MachineCeilings& ceilings);

/// Bytes that a weight of this pattern will take packed in `spec`, before packing it: exact for
/// dense, CSR, N:M and BSR of the shapes that `pattern` counts, within a few per cent for the
/// others where the nonzeros lie at random within a block.
std::size_t estimate_packed_bytes(const FormatSpec& spec, const PatternStats& pattern, DType dtype);

/// One weight of a model that is planned as a whole.
struct PlanJob {
  std::string name;
  const RowSource* weight = nullptr;
  const PatternStats* pattern = nullptr;  ///< nullptr: collected here.
};

class Planner {
 public:
  struct Options {
    std::filesystem::path
        cache_dir;  ///< Empty: $RAREFY_CACHE, else $XDG_CACHE_HOME/rarefy, else ~/.cache/rarefy.
    bool use_cache = true;
    bool freeze = false;  ///< Never measure: take cached plans, else the estimate. Also set by
                          ///< RAREFY_FREEZE=1.
  };
  explicit Planner(Options options, ThreadPool& pool = default_pool());
  Planner() : Planner(Options{}) {}
  ~Planner();

  /// Finds the plan for `weight`: from the cache when one was found before for this pattern on this
  /// machine, else by estimate and measurement. Never chooses a sparse format that is not faster
  /// than dense by more than the noise, unless dense exceeds the memory budget. With
  /// RAREFY_EXPLAIN=1 the candidates and their fates go to the log callback of `set_log`. Throws
  /// `Error`: kInvalidArgument for a request without workloads, kOutOfMemory when no format fits
  /// the budget.
  Plan plan(const RowSource& weight, const PlanRequest& request);
  /// The same when the pattern is already known.
  Plan plan(const RowSource& weight, const PatternStats& pattern, const PlanRequest& request);

  /// Plans many weights under one budget: `request.memory_budget` counts all of them together. Each
  /// is first planned for speed; while they do not fit, the switch to another format that loses the
  /// least time for each byte saved is taken. Throws `Error` (kOutOfMemory) when nothing fits.
  std::vector<Plan> plan_all(std::span<const PlanJob> jobs, const PlanRequest& request,
                             Progress& progress = no_progress());

  [[nodiscard]] const MachineCeilings& ceilings();

  /// The calibration kept beside the plans, when it is of this machine and this build. Of another
  /// it is not used: `reason`, if any, then says so, and the log callback hears it once.
  std::optional<BlockCalibration> calibration(std::string* reason = nullptr);
  /// Measures blocks on both kinds of units, fits the curves, keeps and returns them; plans made
  /// before stay. Some seconds to half a minute. Throws `Error`: kInvalidArgument for blocks that
  /// are not multiples of 32 or for nothing to measure, kIo for a cache folder that cannot be
  /// written.
  BlockCalibration calibrate(const CalibrateOptions& options, Progress& progress = no_progress());
  [[nodiscard]] ThreadPool& pool() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A weight with its plan, ready to run: what a model is made of.
class Linear {
 public:
  Linear() = default;
  Linear(MatrixPtr matrix, Plan plan);
  [[nodiscard]] const Matrix& matrix() const { return *matrix_; }
  [[nodiscard]] const Plan& plan() const { return plan_; }
  explicit operator bool() const { return matrix_ != nullptr; }
  /// C = act(A·B + bias) + residual with the plan's kernel for args' N, or with the default kernel
  /// where the plan's does not take these dtypes.
  void run(const SpmmArgs& args, ThreadPool& pool = default_pool()) const;

 private:
  MatrixPtr matrix_;
  Plan plan_;
  std::vector<const SpmmKernel*> kernels_;  ///< One a step.
};

/// Packs `weight` as `plan` says; a plan for row-major dense borrows the rows where they lie dense
/// in memory already, and keeps `weight` alive. Throws `Error` (kInvalidArgument) for a plan of
/// another shape, and the packing's own where the values no longer keep the plan's pattern. Where
/// the share of nonzeros has moved by more than 4 % of all positions since the plan was made, it is
/// packed all the same, and the log callback hears that it should be planned again.
Linear make_linear(std::shared_ptr<const RowSource> weight, Plan plan,
                   ThreadPool& pool = default_pool());

/// Plans, then packs: a weight that changed since an earlier plan gets a new one.
Linear make_linear(std::shared_ptr<const RowSource> weight, Planner& planner,
                   const PlanRequest& request, ThreadPool& pool = default_pool());

}  // namespace rarefy
